# chroot.sh: devices that are a Debian of another processor, run by qemu-user, without systemd. Sourced by fleet-up.
# Each has its own disk, processes and sshd; network and kernel are this machine's.
. "$here/namespace.sh"

ready() {
  as_root
  run_foreign
}

place() { host=127.0.0.1 port=$(free_port); }

make() {
  furnish "$(root_of "$arch")"
  sshd_config "Port $port" "ListenAddress 127.0.0.1" "UsePAM no" ${cpu:+"SetEnv QEMU_CPU=$cpu"}
}

switch_on() { start "$here/boot-chroot" "$device" "$(cat "$device/lower")"; }
