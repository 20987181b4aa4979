# reach.sh: how this machine reaches a device: a port for its sshd, and the wait until that answers. Sourced.

free_port() { # below those that the kernel gives to outgoing connections: a device that is off finds its own again
  python3 - <<'EOF'
import random, socket
while True:
    port = random.randrange(10_000, 32_000)
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError:
        continue
    print(port)
    break
EOF
}

await_ssh() { # until the sshd of $device speaks; two minutes at most
  local n host port log=$device/console.log
  [ -e "$log" ] || log=$device/sshd.log
  read -r host port < "$device/place"
  for ((n = 0; n < 600; n++)); do
    if timeout 5 bash -c 'exec 3<>"/dev/tcp/$0/$1"; read -r -t 5 line <&3; [[ $line == SSH-* ]]' "$host" "$port" 2>/dev/null; then return; fi
    [ "$n" -lt 50 ] || running || fail "$name ended; see $log" # it says who it is a moment after it began
    sleep 0.2
  done
  fail "$name does not answer; see $log"
}
