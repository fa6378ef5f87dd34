"""The log of a run: one JSON object a step in RUN/log.jsonl, and TensorBoard's files where wanted."""

import json
from pathlib import Path

from ..runtime.files import write_text


class Log:
    """Appends {"step", "loss", ...} lines. Steps after `first_step`, from a session that was killed, are dropped."""

    def __init__(self, run: Path, first_step: int, tensorboard: bool):
        path = run / "log.jsonl"
        if path.exists():
            write_text(path, "".join(json.dumps(r) + "\n" for r in read(path) if r["step"] <= first_step))
        self._stream = open(path, "a", encoding="utf-8", buffering=1)
        self._board = None
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(run / "tensorboard", purge_step=first_step + 1)

    def write(self, step: int, values: dict[str, float]) -> None:
        self._stream.write(json.dumps({"step": step, **values}) + "\n")
        if self._board:
            for name, value in values.items():
                self._board.add_scalar(name, value, step)

    def close(self) -> None:
        self._stream.close()
        if self._board:
            self._board.close()


def read(path: Path) -> list[dict]:
    """The records of a log; a last line that a killed process left unfinished is not one."""
    records = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            records.append(json.loads(line))
        except ValueError:
            break
    return records
