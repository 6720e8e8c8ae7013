from e2evit.cli.pretrain import __doc__, main  # noqa: F401

if __name__ == "__main__":
    main()
