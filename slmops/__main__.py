"""slmops as a module, for launchers that start one: `torchrun -m slmops distill ...`."""

from slmops.cli.app import main

if __name__ == "__main__":
    main()
