"""Studies: published claims, reproduced. A study is a folder with a `study.toml`; nothing is run here."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gossamer.errors import ExperimentError
from gossamer.experiment import Experiment
from gossamer.studies.claims import Term
from gossamer.studies.contents import Claim, Contents, Plot, contents, few
from gossamer.studies.crossing import Cross

FILE = "study.toml"


@dataclass(frozen=True)
class Study:
    """A study, whole or (`quick`) reduced to what `[quick]` keeps."""

    folder: Path
    said: Contents
    quick: bool = False

    @property
    def name(self) -> str:
        """The name of its folder."""
        return self.folder.resolve().name

    @property
    def title(self) -> str:
        """What it is about, in a few words."""
        return self.said.title

    @property
    def about(self) -> str:
        """What the paper says and where, in a paragraph."""
        return self.said.about

    @property
    def claims(self) -> tuple[Claim, ...]:
        """What the paper says."""
        return self.said.claims

    @property
    def plots(self) -> tuple[Plot, ...]:
        """The figures of its results."""
        return self.said.plots

    @property
    def experiments(self) -> Mapping[str, Experiment]:
        """The experiment of each arm that is kept."""
        return self.said.quick if self.quick else self.said.experiments

    @property
    def cross(self) -> Cross | None:
        """The factors of crossed arms with the levels that are kept."""
        found = self.said.cross.of(self.experiments) if self.said.cross else None
        return found if found and found.rows else None

    def arms_of(self, term: Term) -> tuple[str, ...]:
        """The arms that a claim looks at: one, or all of a level of crossed arms."""
        return self.said.cross.across(term.arm) if term.over and self.said.cross else (term.arm,)

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds that are listed."""
        return self.said.quick_seeds if self.quick else self.said.seeds

    @property
    def results(self) -> Path:
        """The folder of its results."""
        return self.folder / ("results-quick" if self.quick else "results")

    def run_folder(self, runs: Path, arm: str, seed: int) -> Path:
        """Where the run of an arm with a seed lies below `runs`; reduced runs lie apart from whole ones."""
        return runs / f"study-{self.name}{'-quick' if self.quick else ''}" / f"{arm}-s{seed}"

    def first_seeds(self, count: int | None) -> tuple[int, ...]:
        """The first `count` of the listed seeds (None: all); the seeds 0, 1, ... if more are asked for than listed."""
        if count is None:
            return self.seeds
        if count < 1:
            raise ExperimentError(f"--seeds {count}: say how many seeds to run, at least 1")
        listed = next((seeds for seeds in (self.seeds, self.said.seeds) if count <= len(seeds)), range(count))
        return tuple(listed[:count])

    def chosen_arms(self, names: Sequence[str]) -> tuple[str, ...]:
        """These arms, or all where none is named; a level of crossed arms stands for all of its arms.

        Raises ExperimentError for one that is not there.
        """
        chosen: list[str] = []
        for name in names:
            arms = [arm for arm in self.cross.across(name) if arm in self.experiments] if self.cross else []
            if name not in self.experiments and not arms:
                why = "is not kept by [quick]" if name in self.said.experiments else "does not exist"
                raise ExperimentError(f"--arms: arm '{name}' {why}; arms: {few(self.experiments)}")
            chosen += arms or [name]
        return tuple(dict.fromkeys(chosen)) or tuple(self.experiments)


def read_study(folder: Path, quick: bool = False) -> Study:
    """The study in a folder. Raises ExperimentError that names the file and the key at fault."""
    return Study(folder, contents(folder / FILE, folder.resolve().name), quick)


def find_study(name: str, root: Path = Path("studies")) -> Path:
    """The folder of a study: `root`/NAME, or NAME as a path of it or of its file.

    Raises ExperimentError that names those there are.
    """
    given = Path(name)
    for folder in (root / name, given.parent if given.name == FILE else given):
        if (folder / FILE).is_file():
            return folder
    there = [folder.name for folder in study_folders(root)]
    near = difflib.get_close_matches(name, there, n=1)
    hint = f"did you mean '{near[0]}'? " if near else ""
    listed = f"studies: {', '.join(there)}" if there else f"the folder '{root}' here holds none; give the path of one"
    raise ExperimentError(f"no study '{name}', which is a folder with a {FILE}; {hint}{listed}")


def study_folders(root: Path = Path("studies")) -> list[Path]:
    """The folders of the studies below `root`, by name."""
    return sorted(path.parent for path in root.glob(f"*/{FILE}"))
