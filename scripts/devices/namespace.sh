# namespace.sh: what devices have in common that are a tree of processes in namespaces of their own. Sourced.
# A device is one process (`boot`) and all that it starts. Its disk is an overlay mounted in the device's own mount
# namespace: when the process ends, however it ends, the kernel ends the rest and takes mounts and network away.

furnish() { # furnish ROOT: an empty disk over ROOT, with our key let in and a host key of its own
  local disk=$device/disk user
  echo "$1" > "$device/lower"
  mkdir -p "$disk"/{upper,work,merged} "$disk/upper"/{etc/ssh,root/.ssh,home/slm/.ssh}
  chmod 700 "$disk/upper/root" "$disk/upper/root/.ssh" "$disk/upper/home/slm/.ssh"
  cp "$dir/id.pub" "$disk/upper/root/.ssh/authorized_keys"
  cp "$dir/id.pub" "$disk/upper/home/slm/.ssh/authorized_keys"
  chown -R "$(stat -c %u:%g "$1/home/slm")" "$disk/upper/home/slm"
  ssh-keygen -q -t ed25519 -N '' -C "$name" -f "$disk/upper/etc/ssh/ssh_host_ed25519_key"
  cp "$disk/upper/etc/ssh/ssh_host_ed25519_key.pub" "$device/host_key.pub"
  echo "$name" > "$disk/upper/etc/hostname"
}

sshd_config() { # sshd_config SETTING...: of the sshd on the device
  printf '%s\n' "HostKey /etc/ssh/ssh_host_ed25519_key" "PasswordAuthentication no" "KbdInteractiveAuthentication no" \
    "UseDNS no" "MaxStartups 200" "MaxSessions 100" "Subsystem sftp internal-sftp" "$@" > "$device/disk/upper/etc/ssh/sshd_config"
}

start() { # start WORDS...: the device's first process, in namespaces of its own, and note its id
  setsid unshare --mount --propagation private --pid --mount-proc --uts --fork --kill-child=KILL "$@" \
    </dev/null >>"$device/console.log" 2>&1 &
  local outer=$! n
  echo "$outer" > "$device/pid" # the process ends with it, should we be ended now
  for ((n = 0; n < 100; n++)); do
    if pgrep -P "$outer" > "$device/pid.new"; then mv "$device/pid.new" "$device/pid"; return; fi
    sleep 0.05
  done
  fail "$name did not start: $(tail -n 3 "$device/console.log")"
}

pid_of() { # the device's first process, while it runs
  local pid
  pid=$(cat "$device/pid" 2>/dev/null) && tr '\0' '\n' 2>/dev/null <"/proc/$pid/cmdline" | grep -qxF "$device" && echo "$pid"
}

await_end() { # await_end SECONDS: until the device's process is gone
  local n
  for ((n = 0; n < $1 * 10; n++)); do
    pid_of >/dev/null || { swept; return 0; }
    sleep 0.1
  done
  return 1
}

swept() { rm -f "$device/pid"; }

switch_off() { # as its power button does
  local pid
  pid=$(pid_of) || return 0
  kill -TERM "$pid" 2>/dev/null || true
  await_end 30 || unplug
}

unplug() { # as a pulled plug does; what the device had written is in its disk's folder, as in a page cache that survives
  local pid
  pid=$(pid_of) || return 0
  kill -KILL "$pid" 2>/dev/null || true
  await_end 30 || fail "$name does not end"
}

running() { pid_of >/dev/null; }
