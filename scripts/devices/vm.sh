# vm.sh: devices that are an arm64 machine of their own: kernel, disk and systemd, run by qemu. Sourced by fleet-up.
# Its files `drive` (qemu's words for the block device `disk`) and `boot` (more words for its kernel) may be edited.
# About 700 MB of memory each. Nothing outside it can be reached from it; its sshd is a port on loopback here.

ready() {
  as_root
  need qemu-system-aarch64 qemu-system-arm
  need qemu-img qemu-utils
  need mkfs.ext4 e2fsprogs
}

place() { host=127.0.0.1 port=$(free_port); }

make() { # a disk filled from the root, our key let in
  local files=$device/files
  echo "$port" > "$device/port"
  kernel > "$device/kernel"
  echo "${cpu:-cortex-a72}" > "$device/cpu"
  cp -a "$(root_of arm64)" "$files"
  for home in root home/slm; do
    mkdir -p "$files/$home/.ssh"
    chmod 700 "$files/$home/.ssh"
    cp "$dir/id.pub" "$files/$home/.ssh/authorized_keys"
    chown -R "$(stat -c %u:%g "$files/$home")" "$files/$home/.ssh"
  done
  echo "$name" > "$files/etc/hostname"
  : > "$files/etc/machine-id"
  printf 'MaxStartups 200\nMaxSessions 100\nUseDNS no\n' > "$files/etc/ssh/sshd_config.d/fleet.conf"
  ssh-keygen -q -t ed25519 -N '' -C "$name" -f "$files/etc/ssh/ssh_host_ed25519_key"
  cp "$files/etc/ssh/ssh_host_ed25519_key.pub" "$device/host_key.pub"
  truncate -s 3G "$device/disk.img"
  mkfs.ext4 -q -F -d "$files" "$device/disk.img"
  rm -rf "$files"
  echo "-blockdev driver=raw,file.driver=file,file.filename=$device/disk.img,node-name=disk" > "$device/drive"
  : > "$device/boot"
}

switch_on() {
  local kernel
  kernel=$(cat "$device/kernel")
  setsid qemu-system-aarch64 -name "$device" -M virt -cpu "$(cat "$device/cpu")" -smp 2 -m 768 -accel tcg,thread=multi \
    -display none -serial "file:$device/console.log" -monitor none \
    -kernel "$kernel/vmlinuz" -initrd "$kernel/initrd" \
    -append "console=ttyAMA0 quiet mitigations=off systemd.getty_auto=0 $(cat "$device/boot")" \
    $(cat "$device/drive") -device virtio-blk-pci,drive=disk \
    -netdev "user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:$(cat "$device/port")-:22" \
    -device virtio-net-pci,netdev=net,romfile= -device virtio-rng-pci \
    </dev/null >>"$device/qemu.log" 2>&1 &
  echo $! > "$device/pid"
  until running || ! kill -0 $! 2>/dev/null; do sleep 0.02; done
}

pid_of() {
  local pid
  pid=$(cat "$device/pid" 2>/dev/null) && tr '\0' '\n' 2>/dev/null <"/proc/$pid/cmdline" | grep -qxF "$device" && echo "$pid"
}

running() { pid_of >/dev/null; }

switch_off() { # `poweroff` over ssh; a machine that does not listen is unplugged
  local n
  running || { rm -f "$device/pid"; return 0; }
  timeout 20 ssh -i "$dir/id" -p "$(cat "$device/port")" -o UserKnownHostsFile="$dir/known_hosts" -o BatchMode=yes \
    root@127.0.0.1 systemctl poweroff >/dev/null 2>&1 || true
  for ((n = 0; n < 300; n++)); do running || break; sleep 0.1; done
  unplug
}

unplug() { # what the machine had not written yet is lost with its memory
  local pid n
  pid=$(pid_of) && kill -KILL "$pid"
  for ((n = 0; n < 100; n++)); do running || break; sleep 0.1; done
  rm -f "$device/pid"
}
