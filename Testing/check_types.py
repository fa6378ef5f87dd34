"""mypy over the library, as Linux, Windows and macOS see it, with a ratchet.

type_errors.json has the number of errors of each room that is not clean yet; all others have none. More than recorded
is a failure, and so is fewer: lower the number, so that it never rises again.

    python Testing/check_types.py            what `make lint` runs
    python Testing/check_types.py --record   writes the numbers as they are
"""

import json
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
RECORD = Path(__file__).with_name("type_errors.json")
PLATFORMS = ("linux", "win32", "darwin")


def room(path: str) -> str:
    """The library's folder that a file lies in; of the files beside those, the file."""
    return Path(path).parts[1]


def errors(platform: str) -> list[str]:
    """mypy's lines, "path:line: error: ...", on one platform."""
    done = subprocess.run([sys.executable, "-m", "mypy", "--platform", platform, "--cache-dir",
                           f".mypy_cache/{platform}", "LNSynthLib"], cwd=REPOSITORY, capture_output=True, text=True)
    if done.returncode > 1 or done.stderr:
        raise SystemExit(f"mypy did not run:\n{done.stdout}{done.stderr}")
    return [line for line in done.stdout.splitlines() if ": error: " in line]


def main() -> int:
    with ThreadPoolExecutor(2) as pool:
        found = dict(zip(PLATFORMS, pool.map(errors, PLATFORMS), strict=True))
    counts = {platform: Counter(room(line.split(":")[0]) for line in lines) for platform, lines in found.items()}
    every = sorted({name for count in counts.values() for name in count})
    now = {name: max(count[name] for count in counts.values()) for name in every}
    if "--record" in sys.argv:
        RECORD.write_text(json.dumps(now, indent=2) + "\n", encoding="utf-8")
    allowed = json.loads(RECORD.read_text(encoding="utf-8"))
    failed = False
    for name in sorted({*now, *allowed}):
        there, most = now.get(name, 0), allowed.get(name, 0)
        if there > most:
            failed = True
            lines = {line: None for lines in found.values() for line in lines if room(line.split(":")[0]) == name}
            print(*lines, f"LNSynthLib/{name}: {there} type errors, and there were {most}", sep="\n")
        elif there < most:
            failed = True
            print(f"LNSynthLib/{name}: {there} type errors; lower the number in {RECORD.name} from {most}")
    print(f"types: {sum(now.values())} errors in rooms that are not clean yet ({', '.join(now) or 'none'})")
    return failed


if __name__ == "__main__":
    sys.exit(main())
