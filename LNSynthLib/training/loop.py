"""The training loop: one for every generator, whose networks take turns, on one process or many (torchrun, FSDP).

RUN/settings.json   preset, data and versions: what the run is
RUN/log.jsonl       one line a step
RUN/checkpoints/    the last two, to resume from
RUN/generator/      the averaged weights as a generator, of the last checkpoint
RUN/samples/        montages
"""

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from itertools import count
from pathlib import Path

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from torch.nn.utils.parametrize import ParametrizationList

from .. import __version__
from ..cases.sides import check_sides, members
from ..cases.trained_on import TrainedOn
from ..generators import model_folder as generators
from ..runtime.content import check
from ..runtime.errors import LNSynthError
from ..runtime.events import Callback, Event, Progress, duration, ignore
from ..runtime.files import read_json, write_json
from ..runtime.locks import alone_in
from ..runtime.places import relative
from ..runtime.seeds import derive, torch_rng
from ..runtime.temporary import home, sweep
from . import checkpoints
from .data import Patches, collect, loader, places
from .ema import MovingAverage
from .log import Log
from .log import read as read_log
from .memory import keep_freed_memory
from .montage import write_montage
from .settings import FREE, RUN, Preset, make_generator

MESSAGE_EVERY_S = 10
# How random numbers are drawn, kept in settings.json and raised when equal settings give other results: 1 (or nothing)
# noised a micro-batch from one stream and measured BrainLDM's latents in passing; 2 has a stream for each sample.
DRAWS = 2
LOCK_S = 1.0  # to wait for a training that is just ending


def train(preset: Preset, data: Sequence[str | Path], out: str | Path, *, resume: bool = False, device: str = "auto",
          callback: Callback = ignore) -> dict:
    """Trains the preset's generator on prepared data sets and returns {"run", "step", "stopped", "loss"} and what else
    the last step logged.

    data    folders of data sets whose training cases, prepared as `preset.training.prepared`, are drawn from
    out     folder of the run
    resume  go on from its last checkpoint (from the start where there is none)
    device  "auto", or "cpu" to leave an accelerator alone

    On the CPU a resumed run repeats the uninterrupted one bit for bit. Raises LNSynthError for unusable settings or
    data, a folder that holds another run, and a loss that is not finite.
    """
    settings, out = preset.training, Path(out)
    accelerator = _accelerator(settings.precision, device)
    if settings.batch % (settings.micro_batch * accelerator.num_processes):
        raise LNSynthError(f"A batch of {settings.batch} cannot be shared by {accelerator.num_processes} processes "
                           f"with {settings.micro_batch} sample(s) each; set training.batch to a multiple of "
                           f"{settings.micro_batch * accelerator.num_processes}.")
    held = nullcontext() if not accelerator.is_main_process else alone_in(
        out, LOCK_S, "another program trains in this folder; let it end first, or choose another")
    with held, home():
        return _train(preset, data, out, resume, accelerator, callback)


def _train(preset: Preset, data: Sequence[str | Path], out: Path, resume: bool, accelerator,
           callback: Callback) -> dict:
    settings = preset.training
    if accelerator.is_main_process:
        for folder in (out, out / "checkpoints"):
            sweep(folder)  # and what was about to be replaced comes back
    if accelerator.device.type == "cpu":
        keep_freed_memory()
    if not accelerator.is_main_process:
        callback = ignore

    torch.manual_seed(derive(settings.seed, "weights"))
    generator = make_generator(preset)
    cases = collect(data, settings.prepared, generator.form, "train")
    seen = None
    if accelerator.is_main_process:
        everyone, ids = members(data), {case.id for case in cases}
        check_sides(everyone, callback)
        seen = TrainedOn.of([member for member in everyone if member.side == "train" and member.case in ids])
    patches = Patches(cases, generator.form, settings)
    if accelerator.is_main_process:
        draws = _claim(out, preset, data, cases, resume, one_stage=generator.turns(0.0) == generator.turns(1.0))
        if draws != DRAWS:
            callback(Event("training", message="this run was begun by an older version of LNSynth, which drew random "
                           "numbers otherwise: it goes on, but not as it would have there"))
    accelerator.wait_for_everyone()

    adams = {name: torch.optim.Adam(network.parameters(), lr=settings.learning_rate, betas=settings.betas)
             for name, network in generator.players.items()}
    model, *prepared = accelerator.prepare(generator, *adams.values())
    adams = dict(zip(adams, prepared, strict=True))
    ema = MovingAverage(model.parameters(), settings.ema, settings.ema_warmup)
    state = checkpoints.resume(out, model, _inner(adams), ema,
                               lambda sentence: callback(Event("training", message=sentence)))
    resumed, state = state is not None, state or {"step": 0, "seconds": 0.0}
    if resumed:
        callback(Event("training", message=f"resuming after step {state['step']}"))
    preview = collect(data, settings.prepared, generator.form, None) if settings.sample_every else []
    preview = ([c for c in preview if c.split == "val"] or cases)[:settings.sample_cases]

    def save(done: int, seconds: float) -> dict[str, torch.Tensor]:
        """Writes the checkpoint and the generator; returns the averaged weights."""
        tensors = checkpoints.gather(model, _inner(adams), ema)
        if accelerator.is_main_process:
            checkpoints.write(out, tensors, {"step": done, "seconds": seconds})
            generators.save(out / "generator", accelerator.unwrap_model(model), weights=tensors["ema"],
                            facts={"training": _facts(preset, cases, done, seconds)}, trained_on=seen)
        accelerator.wait_for_everyone()
        return tensors["ema"]

    # A run killed between the two files of its last step has a generator older than its checkpoint.
    if _any(accelerator, resumed and accelerator.is_main_process and _exported(out) != state["step"]):
        save(state["step"], state["seconds"])
    first, began, told, stopped = state["step"], time.monotonic(), 0.0, "all steps done"
    log = Log(out, first, settings.tensorboard) if accelerator.is_main_process else None
    batches = iter(loader(patches, first, accelerator.process_index, accelerator.num_processes,
                          pin=accelerator.device.type == "cuda"))
    values, saved = {}, first
    stage = next((step for step in range(first, 0, -1) if _stage_begins(generator, step, settings.steps)), 0)
    model.train()
    with Progress("training", settings.steps - first, callback) as progress:
        for step in range(first, settings.steps):
            if _stage_begins(generator, step, settings.steps):
                # Networks that stand still from here on are to be shipped as the others see them, not as an average.
                stage = step
                ema.restart()
                with accelerator.autocast():
                    generator.begin(generator.turns(step / settings.steps),
                                    _one_by_one(patches, step * settings.batch, accelerator.device))
            values = _step(accelerator, model, adams, generator.turns(step / settings.steps), batches, settings, step)
            ema.update(step - stage)
            done, elapsed = step + 1, time.monotonic() - began
            if log:
                log.write(done, {**values, "seconds": round(state["seconds"] + elapsed, 3)})
            for name, value in values.items():
                if not math.isfinite(value):
                    raise LNSynthError(f"The {name} of step {done} is {value}; lower training.learning_rate, or set "
                                       "training.precision to fp32, and --resume.")
            late = settings.max_minutes and _any(accelerator, elapsed > 60 * settings.max_minutes)
            sample = settings.sample_every and done % settings.sample_every == 0
            if late or sample or done % settings.checkpoint_every == 0 or done == settings.steps:
                averaged, saved = save(done, state["seconds"] + elapsed), done
                if sample and accelerator.is_main_process:
                    write_montage(out / "samples" / f"step-{done:08d}.png", preset, averaged, preview,
                                  accelerator.device, f"step {done}")
                accelerator.wait_for_everyone()
            message = ""
            if elapsed - told >= MESSAGE_EVERY_S or done == settings.steps:
                told, message = elapsed, f"step {done}, loss {values['loss']:.4f}"
            progress.step(message=message)
            if late:
                stopped = f"time budget of {duration(60 * settings.max_minutes)} used"
                break
    if log:
        log.close()
    accelerator.wait_for_everyone()
    return {"run": str(out), "step": saved, "stopped": stopped, **(values or _last_logged(out))}


def _last_logged(out: Path) -> dict[str, float]:
    """What the last step of a run that was complete before returned, from its log."""
    records = read_log(out / "log.jsonl")
    return {name: value for name, value in records[-1].items() if name not in ("step", "seconds")} if records else {}


def _stage_begins(generator, step: int, steps: int) -> bool:
    """Whether at this step others take turns than at the one before."""
    return step > 0 and generator.turns(step / steps) != generator.turns((step - 1) / steps)


def _one_by_one(patches: Patches, first: int, device: torch.device) -> Iterator[tuple[dict, list[torch.Generator]]]:
    """Training samples from number `first` on, in batches of one, each with its stream."""
    for number in count(first):
        batch = {name: tensor[None].to(device) for name, tensor in patches[number].items()}
        yield batch, [torch_rng(patches.settings.seed, "begin", number)]


def _accelerator(precision: str, device: str) -> Accelerator:
    """fp32, or bf16 autocast where it is asked for or, with "auto", where a GPU has it."""
    has_bf16 = device != "cpu" and torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    if precision == "bf16" and not has_bf16:
        raise LNSynthError("bf16 needs a GPU that has it, and there is none here; set training.precision to fp32.")
    # Local detail conditioning is skipped where a patch has no node: its weights then have no gradient to exchange.
    unused = DistributedDataParallelKwargs(find_unused_parameters=True)
    return Accelerator(cpu=device == "cpu", mixed_precision="bf16" if has_bf16 and precision != "fp32" else "no",
                       kwargs_handlers=[unused])


def _inner(adams: dict) -> dict:
    """The optimisers that accelerate wrapped."""
    return {name: adam.optimizer for name, adam in adams.items()}


def _step(accelerator, model, adams: dict, turns: tuple[str, ...], batches, settings, step: int) -> dict[str, float]:
    """One optimiser step of each player whose turn it is, over one batch, accumulated.

    Returns the mean of what the loss returns, over all the batch's samples: under its own names for the player whose
    turn comes last, as "player.name" for the others.
    """
    rounds = settings.batch // (settings.micro_batch * accelerator.num_processes)
    batch = [next(batches) for _ in range(rounds)]
    values = {}
    for player in turns:
        means = _turn(accelerator, model, adams[player], player, batch, settings, step)
        values |= means if player == turns[-1] else {f"{player}.{name}": value for name, value in means.items()}
        for adam in adams.values():  # a loss may reach into the networks of others
            adam.zero_grad(set_to_none=True)
    return values


def _turn(accelerator, model, adam, player: str, batch: list[dict], settings, step: int) -> dict[str, float]:
    torch.manual_seed(derive(settings.seed, "global", step, accelerator.process_index))  # dropout and its like
    for group in adam.param_groups:
        group["lr"] = settings.rate(step) * settings.rate_factors.get(player, 1.0)
    sums: dict[str, torch.Tensor] = {}
    held = places(settings, accelerator.process_index, accelerator.num_processes)
    for i, (part, samples) in enumerate(zip(batch, held, strict=True)):
        part = {name: tensor.to(accelerator.device, non_blocking=True) for name, tensor in part.items()}
        streams = [torch_rng(settings.seed, "noise", step, place) for place in samples]
        _iterate_spectral_norms(model, i == 0)
        with accelerator.no_sync(model) if i < len(batch) - 1 else nullcontext():
            losses = model(part, streams, player)
            accelerator.backward(losses["loss"] / len(batch))
        for name, value in losses.items():
            sums[name] = sums.get(name, 0) + value.detach().float() / len(batch)
    if settings.clip_norm:
        accelerator.clip_grad_norm_([p for group in adam.param_groups for p in group["params"]], settings.clip_norm)
    adam.step()
    means = accelerator.reduce(torch.stack(list(sums.values())), "mean")
    return dict(zip(sums, means.tolist(), strict=True))


def _iterate_spectral_norms(model: torch.nn.Module, on: bool) -> None:
    """Whether spectral norms take a step of their power iteration with each forward pass. With the first one of a
    turn alone, all its samples see the same weights, however many passes they are shared out over."""
    for module in model.modules():
        if isinstance(module, ParametrizationList):
            module.train(on)


def _exported(out: Path) -> int | None:
    """The step of RUN/generator; None where there is none that can be read."""
    try:
        return generators.facts(out / "generator")["training"]["step"]
    except (LNSynthError, KeyError):
        return None


def _any(accelerator, condition: bool) -> bool:
    """Whether it holds in any process: all must stop at the same step."""
    return bool(accelerator.reduce(torch.tensor(float(condition), device=accelerator.device), "sum").item())


def _claim(out: Path, preset: Preset, data: Sequence[str | Path], cases: list, resume: bool, one_stage: bool) -> int:
    """Makes the run's folder its own, or makes sure that the run in it is the one to resume; returns its `DRAWS`.

    one_stage: whose turn it is does not depend on how far the training is, so that it may be lengthened
    """
    path, draws = out / "settings.json", DRAWS
    ours = {"preset": preset.plain(), "cases": [[case.id, case.info.get("key")] for case in cases]}
    if path.exists():
        if not resume:
            raise LNSynthError(f"{out} already holds a training run; add --resume to go on with it, or choose another "
                               "folder.")
        theirs = check(read_json(path), RUN, path)
        draws = theirs.get("draws", 1)
        if (different := _difference(theirs, ours, one_stage)):
            raise LNSynthError(f"{out} holds a run with another {different}; resume it with its own settings and data, "
                               "or choose another folder.")
    elif any(not entry.name.startswith(".") for entry in out.iterdir()):
        raise LNSynthError(f"{out} is not empty and holds no training run; choose another folder.")
    write_json(path, {**ours, "draws": DRAWS, "data": [relative(folder, out) for folder in data],
                      "versions": {"lnsynth": __version__, "torch": torch.__version__}})
    return draws


def _difference(theirs: dict, ours: dict, one_stage: bool) -> str:
    """The first setting that makes two runs different ones; empty where none does."""
    if theirs["preset"]["generator"] != ours["preset"]["generator"]:
        return "generator"
    longer = one_stage and ours["preset"]["training"]["rate_schedule"] == "constant"
    # Settings that came later have defaults that leave everything as it was before them.
    before = {**Preset({}).plain()["training"], **theirs["preset"]["training"]}
    for name, value in ours["preset"]["training"].items():
        free = name in FREE and (name != "steps" or longer)
        if not free and before[name] != value:
            return f"training.{name}"
    return "" if theirs["cases"] == ours["cases"] else "set of training cases"


def _facts(preset: Preset, cases: list, step: int, seconds: float) -> dict:
    """What a generator's file tells about its training."""
    kinds = [case.kind for case in cases]
    return {"about": preset.about, "settings": preset.plain()["training"], "step": step, "seconds": round(seconds, 1),
            "cases": {kind: kinds.count(kind) for kind in sorted(set(kinds))}, "lnsynth": __version__}
