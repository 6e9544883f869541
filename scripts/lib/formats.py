"""Whether a file that `stuckspy record` has written is whole, by format: each check raises what is wrong with it."""
import collections
import gzip
import json
import xml.etree.ElementTree


def check_svg(text):
    root = xml.etree.ElementTree.fromstring(text)
    assert root.tag.endswith("svg") and len(root) > 0, "no flame graph"


def check_folded(text):
    assert text.endswith(b"\n"), "its last line has no end"
    for line in text.decode().splitlines():
        stack, count = line.rsplit(" ", 1)
        assert stack and int(count) > 0, line


def check_speedscope(text):
    document = json.loads(text)
    profiles = document["profiles"]
    assert profiles and all(len(profile["samples"]) == len(profile["weights"]) for profile in profiles), "profiles"


def check_pprof(text):
    data = gzip.decompress(text)
    position, fields = 0, collections.Counter()

    def varint(at):
        value = shift = 0
        while True:
            byte = data[at]
            value, shift, at = value | (byte & 127) << shift, shift + 7, at + 1
            if byte < 128:
                return value, at

    while position < len(data):
        key, position = varint(position)
        assert key & 7 in (0, 2), "wire type %d" % (key & 7)
        value, position = varint(position)
        position += value if key & 7 == 2 else 0
        fields[key >> 3] += 1
    assert position == len(data), "it is cut"
    # sample_type, location, function and string_table of profile.proto
    assert all(fields[number] for number in (1, 4, 5, 6)), dict(fields)


CHECKS = {"svg": check_svg, "folded": check_folded, "speedscope.json": check_speedscope, "pb.gz": check_pprof}


def find_fault(form, text):
    """`None`, or what is wrong with a file of this format."""
    try:
        CHECKS[form](text)
    except Exception as error:  # whatever a half-written file makes a parser say
        return "%s of %d bytes: %s: %s" % (form, len(text), type(error).__name__, error)
    return None
