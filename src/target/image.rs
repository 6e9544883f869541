//! One ELF file as it is mapped into a target: where it lies, its symbols and sections. Nothing of Python.
//!
//! Headers, dynamic symbols and data come from the target's memory, which is right also when the file was deleted,
//! replaced, or lies in another mount namespace. Only what is not loaded (section headers, `.symtab`) needs the file.

use std::fs::File;
use std::os::unix::fs::FileExt;

use goblin::container::{Container, Ctx};
use goblin::elf::dynamic::{DT_GNU_HASH, DT_STRTAB, DT_SYMTAB, Dyn};
use goblin::elf::header::{Header, header64};
use goblin::elf::program_header::{PF_W, PT_DYNAMIC, PT_LOAD, ProgramHeader};
use goblin::elf::section_header::SectionHeader;
use goblin::elf::sym::Sym;
use scroll::{LE, Pread};
use thiserror::Error;

use super::files::open_mapped_file;
use super::maps::Mapping;
use crate::model::Address;
use crate::sys::memory::{ReadError, RemoteMemory};
use crate::sys::procfile::ProcDir;

const CONTEXT: Ctx = Ctx {
    container: Container::Big,
    le: LE,
};

/// Most program headers of a file.
const MAX_PROGRAM_HEADERS: u16 = 256;
/// Most section headers of a file; files with more keep the count elsewhere and are not looked into.
const MAX_SECTIONS: u16 = 4096;
/// Most dynamic entries.
const MAX_DYNAMIC: u64 = 1024;
/// Most steps along one chain of the hash table.
const MAX_CHAIN: u32 = 100_000;
/// Most bytes of a string table or symbol table that are read from a file.
const MAX_TABLE: u64 = 32 << 20;
/// Bytes at the start of the file that must be the same in memory for it to be the same file: the header, the program
/// headers and in general the build id.
const SAME_FILE_BYTES: usize = 1024;

/// Why an ELF image can't be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ImageError {
    /// The target's memory there can't be read.
    #[error("read the ELF header: {0}")]
    Read(#[from] ReadError),
    /// It is not a 64-bit little-endian ELF file, or its headers contradict themselves.
    #[error("not a usable 64-bit ELF image: {0}")]
    Malformed(&'static str),
}

/// The mappings of one file in a target.
#[derive(Clone, Debug)]
pub struct MappedFile {
    /// The mapping that starts at offset 0 of the file.
    pub first: Mapping,
    /// Whether any part of it is executable.
    pub executable: bool,
}

/// Every file that is mapped from its start, in ascending order of addresses.
pub fn mapped_files(mappings: &[Mapping]) -> Vec<MappedFile> {
    let mut files: Vec<MappedFile> = Vec::new();
    for mapping in mappings.iter().filter(|mapping| mapping.inode != 0) {
        let same = files
            .last_mut()
            .filter(|file| file.first.inode == mapping.inode && file.first.name == mapping.name);
        match same {
            Some(file) if mapping.offset != 0 => file.executable |= mapping.executable,
            _ if mapping.offset == 0 => files.push(MappedFile {
                first: mapping.clone(),
                executable: mapping.executable,
            }),
            _ => {}
        }
    }
    files
}

/// An ELF image in a target's memory.
#[derive(Clone, Debug)]
pub struct ElfImage {
    first: Mapping,
    header: Header,
    segments: Vec<ProgramHeader>,
    /// What is added to an address in the file (SVMA) to give one in the target (AVMA).
    bias: u64,
}

impl ElfImage {
    /// Reads the headers of the image whose first mapping is `first`.
    pub fn read(memory: &dyn RemoteMemory, first: &Mapping) -> Result<ElfImage, ImageError> {
        let mut bytes = [0; header64::SIZEOF_EHDR];
        memory.read(first.start, &mut bytes)?;
        if bytes[..4] != *b"\x7fELF" || bytes[4] != 2 || bytes[5] != 1 {
            return Err(ImageError::Malformed("no such magic number"));
        }
        let header: Header = bytes
            .pread_with(0, LE)
            .map_err(|_| ImageError::Malformed("header"))?;
        if header.e_phnum > MAX_PROGRAM_HEADERS
            || usize::from(header.e_phentsize) != ProgramHeader::size(CONTEXT)
        {
            return Err(ImageError::Malformed("program headers"));
        }
        let size = u64::from(header.e_phnum) * u64::from(header.e_phentsize);
        let at = first
            .start
            .checked_add(header.e_phoff)
            .ok_or(ImageError::Malformed("program headers"))?;
        let table = memory.read_vec(at, size, size)?;
        let segments = ProgramHeader::parse(&table, 0, usize::from(header.e_phnum), CONTEXT)
            .map_err(|_| ImageError::Malformed("program headers"))?;
        let load = segments
            .iter()
            .find(|segment| segment.p_type == PT_LOAD)
            .ok_or(ImageError::Malformed("nothing is loaded"))?;
        // The first mapping holds offset 0 of the file, which lies `p_offset` before the segment's own start.
        let svma = load.p_vaddr.wrapping_sub(load.p_offset);
        let bias = first.start.0.wrapping_sub(svma);
        Ok(ElfImage {
            first: first.clone(),
            header,
            segments,
            bias,
        })
    }

    /// The mapping that it starts with.
    pub fn mapping(&self) -> &Mapping {
        &self.first
    }

    /// The target's address for an address of the file.
    pub fn to_avma(&self, svma: u64) -> Address {
        Address(self.bias.wrapping_add(svma))
    }

    /// Its writable data, initialised and not (`.data`, `.bss`): start and size in bytes.
    pub fn writable_data(&self) -> impl Iterator<Item = (Address, u64)> + '_ {
        self.segments
            .iter()
            .filter(|segment| segment.p_type == PT_LOAD && segment.p_flags & PF_W != 0)
            .map(|segment| (self.to_avma(segment.p_vaddr), segment.p_memsz))
    }

    /// Looks `name` up among the dynamic symbols, in the target's memory, by the GNU hash table.
    pub fn find_dynamic_symbol(&self, memory: &dyn RemoteMemory, name: &str) -> Option<Address> {
        let table = DynamicTable::read(self, memory)?;
        table.find(memory, name).map(|svma| self.to_avma(svma))
    }

    /// Opens the file, if what lies in memory can be shown to come from it.
    pub fn open_file(&self, proc: &ProcDir, memory: &dyn RemoteMemory) -> Option<ElfFile> {
        let file = open_mapped_file(proc, &self.first).ok()?;
        let mut on_disk = [0; SAME_FILE_BYTES];
        let mut loaded = [0; SAME_FILE_BYTES];
        file.read_exact_at(&mut on_disk, 0).ok()?;
        memory.read(self.first.start, &mut loaded).ok()?;
        if on_disk != loaded {
            return None;
        }
        let sections = read_sections(&file, &self.header)?;
        Some(ElfFile { file, sections })
    }
}

/// The dynamic symbols of an image in memory.
struct DynamicTable {
    hash: Address,
    symbols: Address,
    strings: Address,
}

impl DynamicTable {
    fn read(image: &ElfImage, memory: &dyn RemoteMemory) -> Option<DynamicTable> {
        let dynamic = image
            .segments
            .iter()
            .find(|segment| segment.p_type == PT_DYNAMIC)?;
        let size = dynamic.p_memsz.min(MAX_DYNAMIC * 16);
        let bytes = memory
            .read_vec(image.to_avma(dynamic.p_vaddr), size, size)
            .ok()?;
        let find = |tag: u64| {
            let entries = bytes
                .chunks_exact(16)
                .filter_map(|chunk| chunk.pread_with::<Dyn>(0, CONTEXT).ok());
            let value = entries
                .take_while(|entry| entry.d_tag != 0)
                .find(|entry| entry.d_tag == tag)?
                .d_val;
            // glibc's loader turns these into addresses in place (`elf/dl-load.c`), musl's leaves them alone.
            let avma = if value < image.first.start.0 {
                image.to_avma(value)
            } else {
                Address(value)
            };
            Some(avma)
        };
        Some(DynamicTable {
            hash: find(DT_GNU_HASH)?,
            symbols: find(DT_SYMTAB)?,
            strings: find(DT_STRTAB)?,
        })
    }

    /// The symbol's value. Layout of the table: buckets of chains, a chain ends with the lowest bit of a hash set.
    fn find(&self, memory: &dyn RemoteMemory, name: &str) -> Option<u64> {
        let mut head = [0; 16];
        memory.read(self.hash, &mut head).ok()?;
        let word = |index: usize| head.pread_with::<u32>(index * 4, LE).ok();
        let (buckets, first_symbol, bloom_words) = (word(0)?, word(1)?, word(2)?);
        if buckets == 0 {
            return None;
        }
        let hash = gnu_hash(name.as_bytes());
        let bucket_table = self.hash.checked_add(16 + 8 * u64::from(bloom_words))?;
        let chain_table = bucket_table.checked_add(4 * u64::from(buckets))?;
        let read_u32 = |at: Address| {
            let mut bytes = [0; 4];
            memory.read(at, &mut bytes).ok()?;
            Some(u32::from_le_bytes(bytes))
        };
        let mut index = read_u32(bucket_table.checked_add(4 * u64::from(hash % buckets))?)?;
        if index < first_symbol {
            return None;
        }
        for _ in 0..MAX_CHAIN {
            let chained = read_u32(chain_table.checked_add(4 * u64::from(index - first_symbol))?)?;
            if chained | 1 == hash | 1
                && let Some(value) = self.value_if_named(memory, index, name)
            {
                return Some(value);
            }
            if chained & 1 == 1 {
                return None;
            }
            index = index.checked_add(1)?;
        }
        None
    }

    fn value_if_named(&self, memory: &dyn RemoteMemory, index: u32, name: &str) -> Option<u64> {
        let size = Sym::size(CONTEXT.container) as u64;
        let bytes = memory
            .read_vec(
                self.symbols.checked_add(size * u64::from(index))?,
                size,
                size,
            )
            .ok()?;
        let symbol: Sym = bytes.pread_with(0, CONTEXT).ok()?;
        let length = name.len() as u64 + 1;
        let text = memory
            .read_vec(
                self.strings.checked_add(symbol.st_name as u64)?,
                length,
                length,
            )
            .ok()?;
        let same = text.strip_suffix(b"\0") == Some(name.as_bytes());
        (same && symbol.st_shndx != 0).then_some(symbol.st_value)
    }
}

fn gnu_hash(name: &[u8]) -> u32 {
    name.iter().fold(5381, |hash: u32, byte| {
        hash.wrapping_mul(33).wrapping_add(u32::from(*byte))
    })
}

/// The file that an image was loaded from.
#[derive(Debug)]
pub struct ElfFile {
    file: File,
    sections: Vec<(Vec<u8>, SectionHeader)>,
}

fn read_sections(file: &File, header: &Header) -> Option<Vec<(Vec<u8>, SectionHeader)>> {
    if header.e_shnum > MAX_SECTIONS
        || usize::from(header.e_shentsize) != SectionHeader::size(CONTEXT)
    {
        return None;
    }
    let mut bytes = vec![0; usize::from(header.e_shnum) * usize::from(header.e_shentsize)];
    file.read_exact_at(&mut bytes, header.e_shoff).ok()?;
    let sections =
        SectionHeader::parse_from(&bytes, 0, usize::from(header.e_shnum), CONTEXT).ok()?;
    let names = read_range(file, sections.get(usize::from(header.e_shstrndx))?)?;
    let name_at = |offset: usize| {
        let tail = names.get(offset..).unwrap_or_default();
        tail.split(|byte| *byte == 0)
            .next()
            .unwrap_or_default()
            .to_vec()
    };
    Some(
        sections
            .into_iter()
            .map(|section| (name_at(section.sh_name), section))
            .collect(),
    )
}

fn read_range(file: &File, section: &SectionHeader) -> Option<Vec<u8>> {
    let length = file.metadata().ok()?.len();
    if section.sh_size > MAX_TABLE.min(length) {
        return None;
    }
    let mut bytes = vec![0; usize::try_from(section.sh_size).ok()?];
    file.read_exact_at(&mut bytes, section.sh_offset).ok()?;
    Some(bytes)
}

impl ElfFile {
    fn section(&self, name: &str) -> Option<&SectionHeader> {
        self.sections
            .iter()
            .find(|(known, _)| known == name.as_bytes())
            .map(|(_, section)| section)
    }

    /// Address in the file (SVMA) of the section `name`, if it is one that is loaded.
    pub fn find_section(&self, name: &str) -> Option<u64> {
        self.section(name)
            .map(|section| section.sh_addr)
            .filter(|address| *address != 0)
    }

    /// Address in the file (SVMA) of the first of `names` that `.symtab` knows, static symbols included.
    pub fn find_symbol(&self, names: &[&str]) -> Option<u64> {
        let strings = read_range(&self.file, self.section(".strtab")?)?;
        let table = self.section(".symtab")?;
        let bytes = read_range(&self.file, table)?;
        let size = Sym::size(CONTEXT.container);
        for name in names {
            let found = bytes
                .chunks_exact(size)
                .filter_map(|chunk| chunk.pread_with::<Sym>(0, CONTEXT).ok())
                .find(|symbol| {
                    let text = strings.get(symbol.st_name..).unwrap_or_default();
                    symbol.st_shndx != 0
                        && text.strip_prefix(name.as_bytes()).and_then(<[u8]>::first) == Some(&0)
                });
            if let Some(symbol) = found {
                return Some(symbol.st_value);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::Pid;
    use crate::sys::memory::LiveMemory;
    use crate::target::maps::parse_maps;

    fn own_images() -> (ProcDir, LiveMemory, Vec<MappedFile>) {
        let proc = ProcDir::open(Pid::own()).unwrap();
        let files = mapped_files(&parse_maps(&proc.read("maps").unwrap()));
        (proc, LiveMemory::new(Pid::own()), files)
    }

    #[test]
    fn finds_a_function_of_libc_in_memory_and_not_what_is_not_there() {
        let (_, memory, files) = own_images();
        let libc = files
            .iter()
            .find(|file| file.first.name.ends_with(b"/libc.so.6"))
            .unwrap();
        let image = ElfImage::read(&memory, &libc.first).unwrap();
        let address = image.find_dynamic_symbol(&memory, "getpid").unwrap();
        assert!(address > libc.first.start);
        assert_eq!(
            image.find_dynamic_symbol(&memory, "no_such_function_here"),
            None
        );
    }

    #[test]
    fn the_file_is_the_one_in_memory_and_has_sections() {
        let (proc, memory, files) = own_images();
        let exe = std::env::current_exe().unwrap();
        let own = files
            .iter()
            .find(|file| file.first.path() == Some(exe.as_path()))
            .unwrap();
        let image = ElfImage::read(&memory, &own.first).unwrap();
        let file = image.open_file(&proc, &memory).unwrap();
        assert!(file.find_section(".text").is_some());
        assert!(file.find_section(".no_such_section").is_none());
        assert!(file.find_symbol(&["no_such_symbol", "main"]).is_some());
        assert!(image.writable_data().all(|(_, size)| size > 0));
    }

    #[test]
    fn garbage_is_refused() {
        let mapping = |bytes: &[u8]| {
            let memory = crate::sys::memory::RecordedMemory::new().with(Address(0x1000), bytes);
            let maps = parse_maps(b"1000-2000 r--p 00000000 fd:00 5 /x\n");
            ElfImage::read(&memory, &maps[0]).is_err()
        };
        assert!(mapping(b""));
        assert!(mapping(&[0; 4096]));
        let mut header = vec![0xff; 4096];
        header[..6].copy_from_slice(b"\x7fELF\x02\x01");
        assert!(mapping(&header));
    }

    proptest! {
        /// Headers that say something else than what is there must end in an error or in nothing found.
        #[test]
        fn any_headers_are_taken(noise in proptest::collection::vec((0_usize..4096, any::<u8>()), 0..64)) {
            let exe = std::fs::read("/proc/self/exe").unwrap();
            let mut bytes = exe[..exe.len().min(64 << 10)].to_vec();
            for (at, value) in noise {
                if at >= 6 {
                    bytes[at] = value;
                }
            }
            let memory = crate::sys::memory::RecordedMemory::new().with(Address(0x1000), bytes);
            let maps = parse_maps(b"1000-2000 r--p 00000000 fd:00 5 /x\n");
            if let Ok(image) = ElfImage::read(&memory, &maps[0]) {
                let _ = image.find_dynamic_symbol(&memory, "getpid");
                let _ = image.writable_data().count();
            }
        }
    }
}
