# shellcheck shell=bash
# Sourced by the scripts that take packages from newer Debian suites than the
# one this machine runs.
#
# Nothing here touches the system's own apt: the sources, the indices, the
# downloaded archives and the "what is installed" database are all private, so
# neither can a later `apt-get upgrade` pick up packages of these suites, nor
# is root needed. What the system's apt.conf.d says about *reaching* a mirror
# (proxies, timeouts, credentials) does stay in force.

# Oldest first: the older the suite, the longer its packages stay what they are.
DEBIAN_SUITES=(trixie sid experimental)

say() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }
die() { say "$*"; exit 1; }

# The folder that all the interpreters go to. Absolute, since the path ends up
# inside binaries (as their ELF interpreter, or as their prefix).
pythons_dir() {
    local dir=${STUCKSPY_PYTHONS:-${XDG_CACHE_HOME:-$HOME/.cache}/stuckspy/pythons}
    mkdir -p "$dir"
    (cd "$dir" && pwd -P)
}

# The Debian mirror that this machine already uses. apt itself is asked, so
# that one-line .list files and deb822 .sources files are both understood;
# `update --print-uris` only prints, and works without any index present.
# STUCKSPY_DEBIAN_MIRROR overrides it (for a machine that isn't Debian).
debian_mirror() {
    if [[ -n ${STUCKSPY_DEBIAN_MIRROR:-} ]]; then
        printf '%s\n' "${STUCKSPY_DEBIAN_MIRROR%/}"
        return
    fi
    local os codename uris
    os=$(. /etc/os-release && printf '%s' "${ID:-}")
    codename=$(. /etc/os-release && printf '%s' "${VERSION_CODENAME:-sid}")
    [[ $os == debian ]] ||
        die "this machine is not Debian: set STUCKSPY_DEBIAN_MIRROR to a Debian mirror"
    uris=$(apt-get update --print-uris 2>/dev/null) || true
    # Only the main archive counts: the security archive has other suite names,
    # and third parties that use Debian's codenames have no component "main".
    local mirror
    mirror=$(sed -nE \
        "s#^'([^']+)/dists/($codename|stable|testing|unstable|sid)/main/.*#\1#p" \
        <<<"$uris" | sed -n 1p)
    [[ -n $mirror ]] ||
        die "no Debian mirror in this machine's apt sources: set STUCKSPY_DEBIAN_MIRROR"
    printf '%s\n' "$mirror"
}

# debian_apt_setup KIND, where KIND is "deb" (packages) or "deb-src" (sources):
# makes the private apt for it, with fresh indices, and holds a lock on it for
# as long as the calling script lives. The kinds are kept apart so that neither
# makes the other download indices it has no use for. Sets APT_DIR.
debian_apt_setup() {
    local kind=$1 mirror suite keyring signed_by=
    mirror=$(debian_mirror) # (an assignment of its own: `local x=$(…)` hides a failure)
    APT_DIR=$(pythons_dir)/.apt/$kind
    mkdir -p "$APT_DIR"/state/lists/partial "$APT_DIR"/cache/archives/partial
    exec {DEBIAN_APT_LOCK}>"$APT_DIR/lock"
    if ! flock -n "$DEBIAN_APT_LOCK"; then
        say "waiting for another run to end"
        flock "$DEBIAN_APT_LOCK"
    fi

    for keyring in /usr/share/keyrings/debian-archive-keyring.{pgp,gpg}; do
        [[ -e $keyring ]] && signed_by=" [signed-by=$keyring]"
    done
    for suite in "${DEBIAN_SUITES[@]}"; do
        printf '%s%s %s %s main\n' "$kind" "$signed_by" "$mirror" "$suite"
    done >"$APT_DIR/sources.list"

    # An empty database of installed packages makes apt resolve a package down
    # to libc and the loader, whatever this machine has installed.
    : >"$APT_DIR/status"

    # Given with -c, this is read after the system's configuration. The hooks
    # are cleared because they work on the system's apt (caches, desktops);
    # sandboxing as the user _apt, because that user can't reach a home folder;
    # Check-Valid-Until, because mirrors that lag or are frozen serve an index
    # of sid that is past its date.
    cat >"$APT_DIR/apt.conf" <<EOF
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear DPkg::Pre-Invoke;
#clear DPkg::Post-Invoke;
#clear DPkg::Pre-Install-Pkgs;
#clear APT::Default-Release;
#clear APT::Architectures;
APT::Architectures { "$(dpkg --print-architecture)"; };
APT::Install-Recommends "false";
APT::Install-Suggests "false";
APT::Sandbox::User "";
Acquire::Check-Valid-Until "false";
Acquire::Languages "none";
Acquire::Retries "3";
Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled "false";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
Dir::Etc::sourcelist "$APT_DIR/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
Dir::State "$APT_DIR/state";
Dir::State::status "$APT_DIR/status";
Dir::Cache "$APT_DIR/cache";
EOF
    say "reading the indices of Debian ${DEBIAN_SUITES[*]}"
    # One suite that can't be had need not matter, so what fails is told only.
    debian_apt get update -qq >&2 || say "not every index could be read (see above)"
}

# debian_apt get|cache ARGUMENTS…: apt-get or apt-cache on the private apt.
debian_apt() {
    local tool=apt-$1
    shift
    "$tool" -c="$APT_DIR/apt.conf" "$@"
}

# debian_find PACKAGE: prints "SUITE VERSION" for the first suite that has
# PACKAGE, or fails. (A source package, where the private apt is of "deb-src".)
# The newest version in that suite: sid goes on listing older sources for the
# sake of architectures that lag behind, and mirrors may not have them any more.
debian_find() {
    local package=$1 suite found
    for suite in "${DEBIAN_SUITES[@]}"; do
        # madison prints:  name | version | mirror suite/main amd64 Packages
        found=$(debian_apt cache madison "$package" | awk -v name="$package" -v suite="$suite/main" \
            '$1 == name && $6 == suite { print $3 }' | sort -V | tail -n 1)
        if [[ -n $found ]]; then
            printf '%s %s\n' "$suite" "$found"
            return
        fi
    done
    return 1
}
