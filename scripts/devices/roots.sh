# roots.sh: Debian root filesystems, kernel and disk image for devices, made once and kept. Sourced.
# They lie in $roots; what a file is made from is in its name, so that a changed recipe makes another one.
# Many devices share a root as the read-only lower side of an overlay: nothing ever writes into it.
suite=bookworm
packages=systemd,systemd-sysv,dbus,libpam-systemd,dbus-user-session,openssh-server,python3,iproute2
roots=${roots:-${XDG_CACHE_HOME:-$HOME/.cache}/slmops/roots}

fail() { echo "fleet-up: $*" >&2; exit 1; }

as_root() { [ "$(id -u)" -eq 0 ] || fail "devices of this kind need root; run: sudo $0 ..."; }

need() { # need PROGRAM PACKAGE...: stop with what to install where a program is absent
  local program=$1; shift
  command -v "$program" >/dev/null 2>&1 || fail "$program is not here; run: apt-get install $*"
}

mirror() { # the mirror that this machine itself uses
  local found
  found=$(apt-get indextargets --format '$(REPO_URI)' 'Component: main' "Codename: $suite" 'Created-By: Packages' | head -n 1)
  echo "${found:-http://deb.debian.org/debian}"
}

run_foreign() { # let this kernel start arm64 programs, in chroots too; the setting stays until the machine restarts
  [ "$(uname -m)" != aarch64 ] || return 0
  need qemu-aarch64-static qemu-user-static
  local binfmt=/proc/sys/fs/binfmt_misc
  [ -e $binfmt/register ] || mount -t binfmt_misc binfmt_misc $binfmt || fail "this kernel has no binfmt_misc"
  [ -e $binfmt/qemu-aarch64 ] || cat /usr/lib/binfmt.d/qemu-aarch64.conf > $binfmt/register
}

keep() { # keep NAME COMMAND...: print $roots/NAME, made by `COMMAND... NEW` when it is not there yet
  local made=$roots/$1; shift
  mkdir -p "$roots"
  (
    flock 9
    [ -e "$made" ] || {
      echo "fleet-up: making $made (once)" >&2
      rm -rf "$made.new"
      "$@" "$made.new" >&2 || { rm -rf "$made.new"; exit 1; }
      mv "$made.new" "$made"
    }
  ) 9>"$made.lock" || fail "$made could not be made"
  echo "$made"
}

root_of() { # root_of ARCH: a minimal Debian with systemd, sshd and python3, and a user `slm`
  need mmdebstrap mmdebstrap
  [ "$1" != arm64 ] || { run_foreign; need arch-test arch-test; }
  keep "$suite-$1-$(cksum <<<"$packages" | cut -d' ' -f1)" make_root "$1"
}

make_root() {
  nice mmdebstrap --quiet --arch="$1" --variant=minbase --include=$packages \
    --customize-hook='chroot "$1" useradd --create-home --password "*" --shell /bin/bash slm' \
    --customize-hook='rm -f "$1"/etc/ssh/ssh_host_*' \
    --customize-hook='for unit in apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service fstrim.timer; do
      ln -sf /dev/null "$1/etc/systemd/system/$unit"; done' \
    "$suite" "$2" "$(mirror)"
}

kernel() { # a folder with `vmlinuz` and `initrd` of Debian's arm64 kernel
  need cpio cpio
  need depmod kmod
  keep "$suite-arm64-kernel-1" make_kernel
}

make_kernel() (
  mkdir -p "$1/apt/lists/partial" "$1/apt/archives/partial" && cd "$1" || exit 1
  : > apt/status
  echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $(mirror) $suite main" > apt/sources.list
  cat > apt/conf <<CONF
Dir::Etc::sourcelist "$PWD/apt/sources.list"; Dir::Etc::sourceparts "/dev/null"; Dir::State "$PWD/apt";
Dir::State::status "$PWD/apt/status"; Dir::Cache "$PWD/apt"; APT::Architecture "arm64"; APT::Architectures { "arm64"; };
APT::Sandbox::User "root"; Acquire::Languages "none";
CONF
  export APT_CONFIG=$PWD/apt/conf
  apt-get update -qq || exit 1
  version=$(apt-cache depends linux-image-arm64 | sed -n 's/.*Depends: linux-image-\([0-9].*arm64\)$/\1/p')
  apt-get download -qq "linux-image-$version" busybox-static || exit 1
  for package in *.deb; do dpkg-deb -x "$package" files || exit 1; done
  depmod -b files "$version" &&
    make_initrd "files/lib/modules/$version" files/bin/busybox initrd &&
    cp "files/boot/vmlinuz-$version" vmlinuz &&
    rm -rf apt files ./*.deb
)

make_initrd() { # make_initrd MODULES BUSYBOX OUT: finds the disk, sets up the network, starts the device's own init
  local modules=$1 name files=()
  mkdir -p ram/bin ram/dev ram/proc ram/sys ram/disk ram/modules
  cp "$2" ram/bin/
  for name in sh mount umount insmod switch_root sleep ip; do ln -s busybox "ram/bin/$name"; done
  with_needs() { # a module after those that it needs
    local need
    for need in $(sed -n "s|^$1: *||p" "$modules/modules.dep"); do with_needs "$need"; done
    [[ " ${files[*]} " == *" $1 "* ]] || files+=("$1")
  }
  for name in virtio_pci virtio_mmio virtio_blk virtio_net virtio-rng ext4 crc32c_generic; do
    with_needs "$(cd "$modules" && find kernel -name "$name.ko")"
  done
  for name in "${files[@]}"; do cp "$modules/$name" ram/modules/; echo "${name##*/}"; done > ram/modules/order
  cat > ram/init <<'INIT'
#!/bin/sh
mount -t devtmpfs dev /dev; mount -t proc proc /proc; mount -t sysfs sys /sys
while read module; do insmod /modules/$module; done < /modules/order
until [ -b /dev/vda ]; do sleep 0.05; done
until [ -e /sys/class/net/eth0 ]; do sleep 0.05; done
ip link set lo up; ip addr add 10.0.2.15/24 dev eth0; ip link set eth0 up
init=/sbin/init
for word in $(cat /proc/cmdline); do case $word in init=*) init=${word#init=} ;; esac; done
mount -t ext4 /dev/vda /disk && mount --move /dev /disk/dev
umount /proc /sys
exec switch_root /disk $init
INIT
  ln -s busybox ram/bin/cat
  chmod +x ram/init
  (cd ram && find . | cpio -o -H newc --quiet | gzip) > "$3"
  rm -rf ram
}
