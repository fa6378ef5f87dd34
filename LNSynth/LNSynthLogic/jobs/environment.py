"""What of the packages for the heavy work is installed, what is missing for which job, and how to install it.

Nothing heavy is imported: versions are read from the packages' own records.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata
from pathlib import Path

from LNSynthLib.runtime.errors import LNSynthError

from ..words import _

REQUIREMENTS = Path(__file__).resolve().parents[2] / "Resources" / "requirements.txt"

# What a panel's job needs: groups of requirements.txt.
JOBS = {"synthesis": ("synthesis",), "anatomy": ("synthesis", "anatomy"),
        "segmentation": ("synthesis", "segmentation")}

# pip must not replace what Slicer is built with, nor the build of torch that fits the graphics card.
KEPT = ("numpy", "SimpleITK", "vtk", "requests", "torch", "torchvision")
# Nor bring these, which TotalSegmentator wants for previews.
UNWANTED = ("fury", "dipy", "imgkit", "xvfbwrapper")
IMPORT_NAMES = {"PyYAML": "yaml", "scikit-image": "skimage", "TotalSegmentator": "totalsegmentator"}

HEAD = re.compile(r"# (?P<groups>[a-z ]+), (?P<mb>\d+) MB(?: \([^)]*\))?(?P<alone>, alone)?: (?P<purpose>.+)")


@dataclass(frozen=True)
class Package:
    name: str
    requirement: str          # as pip takes it, without a marker
    groups: tuple[str, ...]   # "synthesis", "anatomy", "segmentation"
    mb: int                   # on the disk, with what it alone pulls in
    purpose: str
    alone: bool               # to be installed without its dependencies


@dataclass(frozen=True)
class Environment:
    """What was found: version by package, "" where it is missing or too old."""

    packages: tuple[Package, ...]
    versions: dict[str, str]

    def missing(self, job: str | None = None) -> list[Package]:
        """Packages that `job` ("synthesis", "anatomy", "segmentation"; None: all) needs and that are not here."""
        groups = set(JOBS[job]) if job else {group for package in self.packages for group in package.groups}
        return [p for p in self.packages if groups & set(p.groups) and not self.versions[p.name]]

    def missing_words(self, job: str) -> str:
        """A sentence that says what to do before `job` can run; empty where nothing is missing."""
        names = [package.name for package in self.missing(job)]
        if not names:
            return ""
        shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
        return _("Install the missing Python packages in the section Setup first ({names}).").format(names=shown)


@dataclass(frozen=True)
class Plan:
    """How the missing packages get here."""

    torch: str                    # requirement for the PyTorch extension, "" where torch is here
    packages: tuple[str, ...]     # requirements, with their dependencies
    alone: tuple[str, ...]        # requirements, without them
    constraints: tuple[str, ...]  # versions that must stay, as pip's -c file takes them
    skip: tuple[str, ...]         # never to be installed, whoever asks for them
    mb: int                       # on the disk

    def __bool__(self) -> bool:
        return bool(self.torch or self.packages or self.alone)


def read_requirements(path: Path = REQUIREMENTS) -> tuple[Package, ...]:
    """The packages of requirements.txt that are meant for this platform. LNSynthError for a line without its facts."""
    from packaging.requirements import Requirement

    found, head = [], None
    for line in path.read_text(encoding="utf-8").splitlines():
        line = line.strip()
        if line.startswith("#"):
            head = HEAD.fullmatch(line)
        elif line:
            if head is None:
                raise LNSynthError(f"{path}: the line above {line} does not say what it is for; restore the file.")
            wanted = Requirement(line)
            if wanted.marker is None or wanted.marker.evaluate():
                found.append(Package(wanted.name, f"{wanted.name}{wanted.specifier}", tuple(head["groups"].split()),
                                     int(head["mb"]), head["purpose"], bool(head["alone"])))
            head = None
    return tuple(found)


def installed_version(name: str) -> str:
    """The version of an installed package, "unknown" where it is there without a record of it, "" where it is not."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        module = IMPORT_NAMES.get(name, name.replace("-", "_"))
        return "unknown" if importlib.util.find_spec(module) is not None else ""


def inspect(packages: Iterable[Package] | None = None,
            version_of: Callable[[str], str] = installed_version) -> Environment:
    """Looks again at what is installed (some milliseconds)."""
    from packaging.requirements import Requirement
    from packaging.specifiers import SpecifierSet

    importlib.invalidate_caches()
    packages = read_requirements() if packages is None else tuple(packages)
    versions = {}
    for package in packages:
        version = version_of(package.name)
        # An upper bound says what to install; what is newer came with another extension and is not taken from it.
        least = SpecifierSet(",".join(str(bound) for bound in Requirement(package.requirement).specifier
                                      if bound.operator == ">="))
        fits = version == "unknown" or least.contains(version, prereleases=True)
        versions[package.name] = version if version and fits else ""
    return Environment(packages, versions)


@lru_cache(maxsize=1)
def current() -> Environment:
    """What `inspect` found when it was first asked; after an installation, `current.cache_clear()`."""
    return inspect()


def plan(environment: Environment, job: str | None = None,
         version_of: Callable[[str], str] = installed_version) -> Plan:
    """How to install what `job` (None: everything) needs and is missing."""
    missing = environment.missing(job)
    torch = next((p.requirement for p in missing if p.name == "torch"), "")
    others = [p for p in missing if p.name != "torch"]
    kept = [(name, version_of(name)) for name in KEPT]
    return Plan(
        torch=torch.removeprefix("torch"),
        packages=tuple(p.requirement for p in others if not p.alone),
        alone=tuple(p.requirement for p in others if p.alone),
        # The part after "+" names a build ("+cu126"): a constraint with it matches that build alone, which is meant.
        constraints=tuple(f"{name}=={version}" for name, version in kept if version not in ("", "unknown")),
        skip=(*UNWANTED, *KEPT),
        mb=sum(p.mb for p in missing))


def write_constraints(plan: Plan, path: Path) -> Path:
    """The versions that must stay, as a file for pip."""
    path.write_text("\n".join(plan.constraints) + "\n", encoding="utf-8")
    return path


def pip_commands(plan: Plan, interpreter: str, constraints_file: Path) -> list[list[str]]:
    """The commands that install a plan's packages; torch apart.

    constraints_file  as `write_constraints` wrote it
    """
    pip = [interpreter, "-m", "pip", "install", "--disable-pip-version-check", "-c", str(constraints_file)]
    commands = [[*pip, *plan.packages]] if plan.packages else []
    return commands + ([[*pip, "--no-deps", *plan.alone]] if plan.alone else [])


def describe(environment: Environment) -> str:
    """What is missing and what installing it takes, in words; empty where nothing is missing."""
    missing = environment.missing()
    if not missing:
        return ""
    jobs = [(_("synthesis"), "synthesis"), (_("anatomy by TotalSegmentator"), "anatomy"),
            (_("segmentation by nnU-Net"), "segmentation")]
    lines = [_("Some Python packages are missing. The module works without them, but not these:")]
    for words, job in jobs:
        packages = environment.missing(job)
        if packages:
            lines.append(_("{job}: {names}").format(job=words, names=", ".join(p.name for p in packages)))
    size = sum(p.mb for p in missing)
    lines.append(_("Together they take about {size} on the disk.").format(size=megabytes(size)))
    if any(p.name == "torch" for p in missing):
        lines.append(_("torch takes the most; its builds for NVIDIA cards take some gigabytes more."))
    return "\n".join(lines)


def megabytes(mb: float) -> str:
    return f"{mb / 1000:.1f} GB" if mb >= 1000 else f"{mb:.0f} MB"
