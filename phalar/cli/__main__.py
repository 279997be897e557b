"""The `phalar` command where it is not on the path: `python -m phalar.cli`."""

from phalar.cli import main

if __name__ == "__main__":
    main()
