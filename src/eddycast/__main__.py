"""`python -m eddycast` is the command line, as `torchrun -m` needs it."""

from eddycast.cli import main

if __name__ == "__main__":
    main()
