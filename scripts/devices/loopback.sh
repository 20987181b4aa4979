# loopback.sh: devices that are an sshd each, on this machine and as you. Sourced by fleet-up.

sshd=$(command -v sshd || echo /usr/sbin/sshd)

ready() {
  [ -x "$sshd" ] || fail "sshd is not installed; run: apt-get install openssh-server"
  [ "$(id -u)" -ne 0 ] || mkdir -p /run/sshd # sshd, started by root, wants its separation directory
}

place() { host=127.0.0.1 port=$(free_port); }

make() {
  mkdir -p "$device/home/.ssh"
  chmod 700 "$device/home" "$device/home/.ssh"
  cp "$dir/id.pub" "$device/authorized_keys"
  ssh-keygen -q -t ed25519 -N '' -C "$name" -f "$device/host_key"
  # SetEnv HOME: bash started by sshd would read the real user's .bashrc.
  cat > "$device/sshd_config" <<CONFIG
Port $port
ListenAddress 127.0.0.1
HostKey $device/host_key
PidFile $device/sshd.pid
AuthorizedKeysFile $device/authorized_keys
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
StrictModes no
PermitRootLogin prohibit-password
MaxStartups 200
MaxSessions 100
Subsystem sftp internal-sftp
SetEnv HOME=$device/home PATH=/usr/local/bin:/usr/bin:/bin
CONFIG
}

switch_on() {
  "$sshd" -f "$device/sshd_config" -E "$device/sshd.log" || { tail -n 5 "$device/sshd.log" >&2; exit 1; }
  local agent=$device/home/.slmops/agent.pyz
  [ ! -e "$agent" ] || # as a boot does
    HOME=$device/home setsid python3 "$agent" "$device/home/.slmops" supervise </dev/null >>"$device/boot.log" 2>&1 &
}

running() { [ -e "$device/sshd.pid" ]; }

pids() { # only what still is a supervisor or an sshd of this very device
  local said=$device/home/.slmops/run/supervisor.json pid
  if [ -f "$said" ]; then
    pid=$(sed -n 's/.*"pid": *\([0-9]*\).*/\1/p' "$said")
    if grep -qs "$device/home/.slmops" "/proc/$pid/cmdline"; then echo "$pid"; fi
  fi
  if [ -f "$device/sshd.pid" ]; then
    pid=$(cat "$device/sshd.pid")
    if grep -qsF "$device/sshd_config" "/proc/$pid/cmdline"; then echo "$pid"; fi
  fi
}

alive() { # a process that has ended and not been reaped yet is not alive
  local state
  state=$(sed -n 's/^State:[[:space:]]*\([A-Z]\).*/\1/p' "/proc/$1/status" 2>/dev/null) || return 1
  [ -n "$state" ] && [ "$state" != Z ]
}

switch_off() {
  local pid all left n
  mapfile -t all < <(pids)
  rm -f "$device/sshd.pid"
  for pid in "${all[@]}"; do kill "$pid" 2>/dev/null || true; done
  for ((n = 0; n < 300; n++)); do
    left=()
    for pid in "${all[@]}"; do if alive "$pid"; then left+=("$pid"); fi; done
    [ ${#left[@]} -gt 0 ] || return 0
    sleep 0.1
  done
  for pid in "${left[@]}"; do kill -9 "$pid" 2>/dev/null || true; done
}

unplug() { fail "a device on loopback has no plug to pull; use --systemd, --arch or --vm"; }
