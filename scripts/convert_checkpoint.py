from e2evit.cli import run

if __name__ == "__main__":
    run("convert")
