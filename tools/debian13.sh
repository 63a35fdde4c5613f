#!/bin/sh
# Run the project's checks in a fresh Debian 13: Python 3.13, SuiteSparse 7, scikit-sparse 0.5.
#
#     tools/debian13.sh ROOT [COMMAND]
#
# Builds the system in the folder ROOT with debootstrap unless it is there, copies this work tree to
# ROOT/root/sparselmm (the virtual environment that an earlier run left there stays) and runs COMMAND
# in it, by default "make demo && make test". Needs root and debootstrap. The environment steers it:
#
#     MIRROR    where packages come from; by default the mirror that apt uses here
set -eu

test $# -ge 1 || { sed -n '2,11s/^#//p' "$0" >&2; exit 2; }
test "$(id -u)" = 0 || { echo "$0: debootstrap and chroot need root" >&2; exit 2; }
here=$(cd "$(dirname "$0")/.." && pwd)
mkdir -p "$1"
root=$(cd "$1" && pwd)
command=${2:-make demo && make test}

if ! test -x "$root/usr/bin/apt-get"; then
    mirror=${MIRROR:-$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' 'Label: Debian' |
        head -n 1)}
    debootstrap --variant=minbase trixie "$root" $mirror # none found: debootstrap's own default
fi

# The network as it is here: names, certificates, and where pip looks.
cp -L /etc/resolv.conf "$root/etc/"
for settings in /usr/local/share/ca-certificates /etc/pip.conf; do
    if test -e "$settings"; then cp -RL "$settings" "$root$(dirname "$settings")/"; fi
done

inside() { # mounts end with the process; cleared variables would point outside
    unshare --mount sh -euc '
        root=$1 && shift
        mount --bind /proc "$root/proc"
        mkdir -p "$root/dev/shm" && mount -t tmpfs tmpfs "$root/dev/shm"
        exec chroot "$root" env -u VIRTUAL_ENV -u PYTHONPATH -u PYTHONHOME -u MAKEFLAGS -u MAKELEVEL \
            HOME=/root LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive \
            PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin sh -euc "$1"
    ' inside "$root" "$1"
}

if ! test -x "$root/usr/bin/make" || ! test -x "$root/usr/bin/python3"; then
    inside 'apt-get update -q && apt-get install -y -q --no-install-recommends \
        ca-certificates make python3'
fi

copy=$root/root/sparselmm
mkdir -p "$copy"
find "$copy" -mindepth 1 -maxdepth 1 ! -name .venv -exec rm -rf {} +
(cd "$here" && git ls-files -z --cached --others --exclude-standard |
    tar --null --ignore-failed-read -cf - -T -) | tar -xf - -C "$copy"
inside "cd /root/sparselmm && $command"
