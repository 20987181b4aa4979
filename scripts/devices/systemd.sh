# systemd.sh: devices that boot a Debian's own systemd, in systemd-nspawn. Sourced by fleet-up.
# Each has its own disk, processes, cgroup and network; this machine reaches it over a link of the two alone.
. "$here/namespace.sh"

ready() {
  as_root
  need systemd-nspawn systemd-container
  need ip iproute2
  [ -s "$dir/subnet" ] || free_subnet > "$dir/subnet"
}

free_subnet() { # two bytes of 10.A.B.0/24 that no link here uses
  local try
  for ((try = 0; try < 100; try++)); do
    local net
    net=10.$((RANDOM % 50 + 200)).$((RANDOM % 256))
    ip -o -4 addr | grep -qF " $net." || { echo "$net"; return; }
  done
  fail "no free subnet of 10.0.0.0/8 was found"
}

place() { host=$(cat "$dir/subnet").$((number * 2)) port=22; }

make() {
  furnish "$(root_of "$arch")"
  sshd_config "UsePAM yes"
  echo "$host" > "$device/address"
  : > "$device/disk/upper/etc/machine-id"
}

switch_on() {
  local address link pid
  address=$(cat "$device/address")
  link=slm-$(mark)
  ip link del "$link" 2>/dev/null || true
  start unshare --net "$here/boot-systemd" "$device" "$(cat "$device/lower")" "$address" "slmops-$(mark)"
  pid=$(cat "$device/pid")
  while [ "$(readlink "/proc/$pid/ns/net")" = "$(readlink /proc/self/ns/net)" ]; do sleep 0.02; done
  ip link add "$link" type veth peer name host0 netns "$pid"
  ip addr add "${address%.*}.$((${address##*.} - 1))" peer "$address" dev "$link"
  ip link set "$link" up
}

mark() { cksum <<<"$device" | cut -d' ' -f1; }

swept() { # the link went with the device's network; its cgroups are empty folders now, or in a moment
  local n
  rm -f "$device/pid"
  for ((n = 0; n < 20; n++)); do
    find /sys/fs/cgroup -depth -type d -path "*/slmops-$(mark)*" -exec rmdir {} + 2>/dev/null || true
    [ -n "$(find /sys/fs/cgroup -maxdepth 2 -name "slmops-$(mark)")" ] || return 0
    sleep 0.1
  done
}
