"""``python -m flip``, which is also what ``accelerate launch -m flip`` starts."""

from flip.cli.app import main

if __name__ == "__main__":
    main()
