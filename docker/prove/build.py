"""Builds the stages of a Dockerfile in folders: every instruction in order, each doing what Docker's does."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, Any

from docker.prove import container
from docker.prove.base import BASES, Base, make_base
from docker.prove.dockerfile import DockerfileError, Instruction, Stage, UnknownSyntax, expand, pairs, parse
from docker.prove.sizes import tree_size

__all__ = ["Builder", "Image", "StepFailed"]

_EXPANDED = {"COPY", "EXPOSE", "STOPSIGNAL", "USER", "WORKDIR"}
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class StepFailed(Exception):
    """A step of the Dockerfile did not succeed; the log says why."""


@dataclass
class Image:
    """A stage as it stands: its files, and what its instructions have set."""

    root: Path
    env: dict[str, str] = field(default_factory=lambda: {"PATH": _PATH})
    arguments: dict[str, str] = field(default_factory=dict)
    workdir: str = "/"
    user: str = "0"
    entrypoint: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)
    healthcheck: list[str] | None = None
    health_options: dict[str, str] = field(default_factory=dict)
    exposed: list[str] = field(default_factory=list)
    labels: dict[str, str] = field(default_factory=dict)
    stop_signal: str = "SIGTERM"

    def copy(self, root: Path) -> Image:
        """As the start of another stage: its own files, the same settings. ARGs do not go along."""
        subprocess.run(["cp", "--archive", "--reflink=auto", str(self.root), str(root)], check=True)
        return Image(
            root,
            dict(self.env),
            {},
            self.workdir,
            self.user,
            list(self.entrypoint),
            list(self.command),
            self.healthcheck,
            dict(self.health_options),
            list(self.exposed),
            dict(self.labels),
            self.stop_signal,
        )


class Builder:
    """`bases`: where made ones lie, and may lie already. `context`: relative path -> file, what .dockerignore
    lets through. `passed`: variables of this machine's package access (settings of pip and uv, proxies,
    certificates), given to RUN steps and to nothing that is kept.
    """

    def __init__(
        self,
        work: Path,
        bases: Path,
        context: Mapping[str, Path],
        passed: Mapping[str, str],
        log: IO[bytes],
        say: Callable[[str], None],
    ) -> None:
        self.steps: list[dict[str, Any]] = []
        self.bases: dict[str, Base] = {}
        self._work, self._context, self._passed, self._log, self._say = work, context, passed, log, say
        self._kept_bases = bases
        self._stages: dict[str, Image] = {}
        self._shared: dict[str, str] = {}

    def build(self, text: str) -> Image:
        """Every stage in order; -> the last. Raises DockerfileError, StepFailed."""
        head, stages = parse(text)
        for instruction in head:
            self._shared |= self._argument(instruction, {})
        for stage in stages:
            self._stages[stage.name] = image = self._from(stage)
            for instruction in stage.instructions:
                self._step(
                    stage, str(instruction), instruction.line, partial(self._apply, image, instruction)
                )
        return image

    def _step(self, stage: Stage, source: str, line: int, act: Callable[[], Any]) -> Any:
        self._say(f"[{stage.name}] {source if len(source) < 110 else source[:107] + '...'}")
        self._log.write(f"\n=== [{stage.name}] line {line}: {source}\n".encode())
        self._log.flush()
        start = time.monotonic()
        result = act()
        size = tree_size(self._stages[stage.name].root) if stage.name in self._stages else 0
        step = {
            "stage": stage.name,
            "line": line,
            "step": source,
            "seconds": round(time.monotonic() - start, 1),
        }
        before = next(
            (each["bytes_after"] for each in reversed(self.steps) if each["stage"] == stage.name), size
        )
        self.steps.append({**step, "bytes_added": size - before, "bytes_after": size})
        return result

    def _from(self, stage: Stage) -> Image:
        name = expand(stage.base, self._shared, stage.line)
        root = self._work / "stages" / stage.name
        root.parent.mkdir(exist_ok=True)

        def start() -> Image:
            image = (
                self._stages[name].copy(root) if name in self._stages else Image(self._base(name)).copy(root)
            )
            self._stages[stage.name] = image
            return image

        image: Image = self._step(stage, f"FROM {stage.base} AS {stage.name}", stage.line, start)
        return image

    def _base(self, name: str) -> Path:
        if name not in BASES:
            raise DockerfileError(f"no stand-in for the base image {name!r}; there are: {', '.join(BASES)}")
        root = self._kept_bases / name.replace(":", "-").replace("/", "-")
        if not root.exists():
            root.parent.mkdir(parents=True, exist_ok=True)
            draft = root.with_name(root.name + ".draft")
            make_base(BASES[name], draft, self._log)
            draft.rename(root)
        self.bases[name] = BASES[name]
        return root

    def _apply(self, image: Image, instruction: Instruction) -> None:
        variables = {**image.arguments, **image.env}
        line = instruction.line
        # CMD, ENTRYPOINT, HEALTHCHECK and RUN go to a shell or to nobody: their $ is not Docker's to replace.
        text = expand(instruction.arguments, variables, line) if instruction.name in _EXPANDED else ""
        match instruction.name:
            case "ARG":
                image.arguments |= self._argument(instruction, self._shared)
            case "ENV":
                # All of one ENV see what was set before it, as in Docker.
                image.env |= {name: expand(value, variables, line) for name, value in pairs(instruction)}
            case "LABEL":
                image.labels |= {name: expand(value, variables, line) for name, value in pairs(instruction)}
            case "WORKDIR":
                image.workdir = os.path.normpath(os.path.join(image.workdir, text))
                self._inside(image, image.workdir).mkdir(parents=True, exist_ok=True)
            case "USER":
                image.user = text
                user_of(image)
            case "EXPOSE":
                image.exposed += text.split()
            case "STOPSIGNAL":
                image.stop_signal = text
            case "ENTRYPOINT":
                image.entrypoint, image.command = _argv(instruction), []
            case "CMD":
                image.command = _argv(instruction)
            case "HEALTHCHECK":
                self._healthcheck(image, instruction)
            case "COPY":
                self._copy(image, instruction, text)
            case "RUN":
                self._run(image, instruction)
            case other:  # the parser's list and this one must agree
                raise UnknownSyntax(f"line {instruction.line}: the instruction {other}")

    @staticmethod
    def _argument(instruction: Instruction, shared: Mapping[str, str]) -> dict[str, str]:
        name, has_default, default = instruction.arguments.partition("=")
        if " " in instruction.arguments.strip():
            raise UnknownSyntax(f"line {instruction.line}: several ARGs in one, or a value with spaces")
        return {name: default if has_default else shared.get(name, "")}

    @staticmethod
    def _healthcheck(image: Image, instruction: Instruction) -> None:
        kind, _, rest = instruction.arguments.partition(" ")
        if kind == "NONE":
            image.healthcheck = None
            return
        if kind != "CMD":
            raise DockerfileError(f"line {instruction.line}: expected HEALTHCHECK CMD or NONE")
        image.healthcheck = _argv(Instruction("CMD", rest.strip(), instruction.line))
        image.health_options = {name: values[0] for name, values in instruction.flags.items()}

    def _run(self, image: Image, instruction: Instruction) -> None:
        mounts = [*container_mounts(), *self._access()]
        for option in instruction.flags.get("mount", ()):
            fields = dict(part.partition("=")[::2] for part in option.split(","))
            if fields.keys() != {"type", "target"} or fields["type"] != "cache":
                raise UnknownSyntax(f"line {instruction.line}: --mount={option}")
            kept = self._work / "caches" / fields["target"].strip("/").replace("/", "-")
            kept.mkdir(parents=True, exist_ok=True)
            self._inside(image, fields["target"]).mkdir(parents=True, exist_ok=True)
            mounts.append(("bind", fields["target"], str(kept)))
        words = instruction.exec_form
        spec = container.Spec(
            root=image.root,
            argv=words or ["/bin/sh", "-c", instruction.arguments],
            env={"HOME": home_of(image), **self._passed, **image.arguments, **image.env},
            cwd=image.workdir,
            user=user_of(image),
            mounts=mounts,
        )
        status = container.run(spec, self._log)
        if status:
            raise StepFailed(f"line {instruction.line}: RUN ended with status {status}")

    @staticmethod
    def _access() -> list[container.Mount]:
        """The machine's resolver and certificates, lent to RUN steps as Docker lends its resolver."""
        return [("lend", path, path) for path in ("/etc/resolv.conf", "/etc/ssl/certs")]

    def _copy(self, image: Image, instruction: Instruction, text: str) -> None:
        *sources, target = shlex.split(text)
        if not sources or instruction.exec_form is not None:
            raise UnknownSyntax(f"line {instruction.line}: COPY needs SOURCE... TARGET")
        if instruction.flags.keys() & {"chown", "chmod"}:
            raise UnknownSyntax(f"line {instruction.line}: COPY --chown and --chmod")
        into_folder = target.endswith("/") or len(sources) > 1 or target in {".", "./"}
        place = self._inside(image, os.path.join(image.workdir, target))
        stage = instruction.flag("from")
        for source in sources:
            if any(mark in source for mark in "*?["):
                raise UnknownSyntax(f"line {instruction.line}: a pattern in COPY")
            if stage is not None:
                if stage not in self._stages:
                    raise DockerfileError(f"line {instruction.line}: no earlier stage {stage!r}")
                _copy_path(self._inside(self._stages[stage], source), place, into_folder, instruction.line)
            else:
                self._copy_context(source, place, into_folder, instruction.line)

    def _copy_context(self, source: str, place: Path, into_folder: bool, line: int) -> None:
        """A file, or the contents of a folder, of the context; owned by root whoever owns them here."""
        clean = os.path.normpath(source)
        inside = {
            path: file for path, file in self._context.items() if path.startswith(clean + "/") or clean == "."
        }
        if clean in self._context:
            inside = {clean: self._context[clean]}
            targets = {clean: place / Path(clean).name if into_folder else place}
        else:
            targets = {path: place / os.path.relpath(path, clean) for path in inside}
        if not inside:
            raise DockerfileError(f"line {line}: COPY {source}: not in the build context (.dockerignore?)")
        for path, file in inside.items():
            targets[path].parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(file, targets[path])
            os.chown(targets[path], 0, 0)

    @staticmethod
    def _inside(image: Image, path: str) -> Path:
        return image.root / os.path.normpath(os.path.join(image.workdir, path)).lstrip("/")


def _copy_path(source: Path, place: Path, into_folder: bool, line: int) -> None:
    """A file or folder of another stage: links stay links, numbers of owners stay."""
    if not source.exists():
        raise DockerfileError(f"line {line}: {source} is not in that stage")
    if source.is_dir():
        place.mkdir(parents=True, exist_ok=True)
        subprocess.run(["cp", "--archive", "--reflink=auto", f"{source}/.", str(place)], check=True)
        return
    target = place / source.name if into_folder else place
    target.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(["cp", "--archive", str(source), str(target)], check=True)


def _argv(instruction: Instruction) -> list[str]:
    words = instruction.exec_form
    return ["/bin/sh", "-c", instruction.arguments] if words is None else words


def container_mounts(shm: str = "64m") -> list[container.Mount]:
    """What every container has: /proc, a small /dev, /dev/shm of Docker's default size."""
    return [
        ("proc", "/proc", ""),
        ("devices", "/dev", ""),
        ("tmpfs", "/dev/shm", f"size={shm},nosuid,nodev,noexec"),
    ]


def user_of(image: Image) -> tuple[int, int]:
    """The numbers of USER: `uid[:gid]` or names of the image's own /etc/passwd and /etc/group."""
    user, _, group = image.user.partition(":")
    accounts = _table(image.root / "etc/passwd")
    uid = int(user) if user.isdigit() else int(accounts[user][2])
    if group:
        return uid, int(group) if group.isdigit() else int(_table(image.root / "etc/group")[group][2])
    row = next((row for row in accounts.values() if int(row[2]) == uid), None)
    return uid, int(row[3]) if row else 0


def home_of(image: Image) -> str:
    """The home folder that Docker would put into HOME."""
    uid = user_of(image)[0]
    row = next((row for row in _table(image.root / "etc/passwd").values() if int(row[2]) == uid), None)
    return row[5] if row else "/"


def _table(path: Path) -> dict[str, list[str]]:
    rows = [line.split(":") for line in path.read_text().splitlines() if line]
    return {row[0]: row for row in rows}
