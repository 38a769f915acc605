"""What the commands of the command line do, each from its parsed arguments to its exit code."""

import argparse
import dataclasses
import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch
from tqdm import tqdm

from baselines import weights
from crnet import loading, networks
from crnet.cli import demo
from crnet.data import check, data_root, find_images
from crnet.errors import ImageFileError
from crnet.files import output_file, output_format, read_picture, write_picture
from crnet.measuring.compare import compare_on
from crnet.measuring.evaluate import Row, evaluate, report, table
from crnet.measuring.protocol import protocol_of
from crnet.systems import LEARNED, System, following, parameters, scales, system, title
from crnet.training import recipe
from crnet.upscale import Upscaler, upscale_picture

TEST_SETS = ("Set5", "Set14", "B100", "Urban100", "Manga109")


class UsageError(Exception):
    """The call cannot be carried out as given."""


def show_demo(arguments: argparse.Namespace) -> int:
    """Run the demo."""
    for line in demo.run(arguments.out, arguments.scale):
        print(line)
    return 0


def list_models(_: argparse.Namespace) -> int:
    """Print the bundled networks and baselines, and what they say of themselves."""
    for name, path in loading.bundled().items():
        card = loading.card(name)
        sizes = ", ".join(f"{k} {v}" for k, v in card.arguments.items())
        _tell_head(name, f"{card.architecture}({sizes})", card.scales, path)
        net = loading.build(card.architecture, card.arguments)
        work = (f"x{s} {networks.multiplications(net, s) / 1e6:.3f}" for s in card.scales)
        print(f"    multiplications per HR pixel, in millions: {', '.join(work)}")
        _tell_card(card.training, card.psnr)
    for name in LEARNED:
        one, made, path = system(name), scales(name), weights.bundled(name)
        _tell_head(name, type(one).__name__, made, path)
        numbers = ", ".join(f"x{s} {parameters(one, s):,}" for s in made)
        print(f"    learned numbers: {numbers}")
        told, *_rest = weights.header(path)
        training = {k: v for k, v in told["training"].items() if k != "psnr"}
        settings = {
            k: v for k, v in told.items() if k not in ("name", "scales", "training", "psnr")
        }
        # CSC-SR has its PSNR by scale and then by set, and its settings by scale.
        psnr: dict[str, dict[str, float]] = told.get("psnr", {})
        for scale, cells in told["training"].get("psnr", {}).items():
            for name_of_set, value in cells.items():
                psnr.setdefault(name_of_set, {})[scale.removeprefix("x")] = value
        _tell_card({**training, **settings}, psnr)
    return 0


def _tell_head(name: str, kind: str, made: Sequence[int], path: Path) -> None:
    known = " ".join(f"x{s}" for s in made)
    print(f"{name}  {kind}  {known}  {path.stat().st_size / 1e6:.2f} MB")


def _tell_card(training: Mapping[str, Any], psnr: Mapping[str, Mapping[str, float]]) -> None:
    for key, value in training.items():
        print(f"    {key}: {json.dumps(value) if isinstance(value, dict) else value}")
    for name_of_set, cells in psnr.items():
        told = ", ".join(f"x{scale} {value:.2f} dB" for scale, value in cells.items())
        print(f"    {name_of_set}: {told}")


def measure(arguments: argparse.Namespace) -> int:
    """Measure systems on image sets."""
    if arguments.recursions and arguments.ensemble:
        raise UsageError("--recursions measures a network as it is, not its --ensemble")
    root = data_root(arguments.data)
    models = _systems(arguments, arguments.model)

    def table_and_json() -> bytes:
        with _bar("evaluate") as bar:
            rows = evaluate(
                models,
                root,
                arguments.sets,
                arguments.scales,
                recursions=arguments.recursions,
                on_image=_follow(bar),
            )
        print(table(rows, paper=not arguments.no_paper))
        if not arguments.no_paper:
            print("\n[name]: published, Tables 1 to 3 of arXiv 1908.01166")
        protocols = list({protocol_of(m).name: protocol_of(m) for m in models.values()}.values())
        written = report(rows, root, arguments.sets, protocols)
        return (json.dumps(written, indent=1, allow_nan=False) + "\n").encode()

    if arguments.json is None:
        table_and_json()
    else:
        with output_file(arguments.json, overwrite=arguments.overwrite) as file:
            file.write(table_and_json())
    return 0


def _systems(arguments: argparse.Namespace, given: Sequence[str]) -> dict[str, System]:
    """Return the systems to measure by how tables call them, after a look at the call."""
    if min(arguments.scales) < 2:
        raise UsageError(f"scales must be ≥ 2, got {arguments.scales}")
    _check_device(arguments.device)
    names: dict[str, str] = {}
    for one in given:
        name = _shown(one)
        if name in names:
            raise UsageError(f"two models would be called {name}")
        names[name] = one
        made = scales(one)
        if made and not set(arguments.scales) <= set(made):
            raise UsageError(f"{name} upscales by {made}, not by all of {arguments.scales}")
    how = {"ensemble": arguments.ensemble, "precision": arguments.precision}
    return {
        name + "+" * arguments.ensemble: system(one, arguments.device, **how)
        for name, one in names.items()
    }


def compare_systems(arguments: argparse.Namespace) -> int:
    """Put systems side by side: a table, and a sheet of crops."""
    if arguments.out.suffix.lower() != ".png":
        raise UsageError(f"the sheet must end in .png, got {arguments.out}")
    root = data_root(arguments.data)
    models = _systems(arguments, arguments.models)
    chosen = [path for name in arguments.sets for path in _chosen(root / name, arguments.image)]
    if not chosen:
        raise UsageError(f"no image {arguments.image} in {' '.join(arguments.sets)}")
    with output_file(arguments.out, overwrite=arguments.overwrite) as file:
        pairs = [(path, scale) for path in chosen for scale in arguments.scales]
        try:
            looks = [compare_on(path, scale, models, arguments.crop) for path, scale in pairs]
        except ValueError as error:
            raise UsageError(str(error)) from error
        with _bar("compare") as bar:
            rows = evaluate(models, root, arguments.sets, arguments.scales, on_image=_follow(bar))
        print(table(rows, parameters=True))
        from crnet import plot

        plot.sheet(looks).savefig(file, dpi=110, format="png")
    print(arguments.out)
    return 0


def _chosen(folder: Path, name: str | None) -> list[Path]:
    paths = find_images(folder)
    return paths[:1] if name is None else [p for p in paths if name in (p.name, p.stem)]


def _shown(name: str) -> str:
    """Return how tables call a model that was given by its name or file."""
    path = Path(name)
    run = path.parent.name if path.suffix == ".ckpt" else ""
    return f"{run}/{path.stem}" if run else path.stem or name


def upscale_files(arguments: argparse.Namespace) -> int:
    """Enlarge image files."""
    _check_device(arguments.device)
    given = arguments.model
    made, name = scales(given), title(given)
    if made and arguments.scale not in made:
        raise UsageError(f"{name} upscales by {made}, not by {arguments.scale}")
    if arguments.scale < 1:
        raise UsageError(f"the scale must be ≥ 1, got {arguments.scale}")
    if not 0 < arguments.memory < 1e9:
        raise UsageError(f"--memory must be > 0 MiB and below 1e9, got {arguments.memory:g}")
    jobs = _jobs(arguments, name)
    how = {"ensemble": arguments.ensemble, "precision": arguments.precision}
    upscale = system(given, arguments.device, **how, memory_mib=arguments.memory)
    failed = 0
    for source, target in jobs:
        try:
            picture = read_picture(source)
            format_name = output_format(target, picture, arguments.scale)
            with (
                output_file(target, overwrite=arguments.overwrite) as file,
                _bar(source.name) as bar,
            ):
                shown = following(upscale, _follow(bar))
                result = upscale_picture(picture, arguments.scale, shown)
                write_picture(result, file, format_name)
            print(target)
        except BrokenPipeError:
            raise
        except ImageFileError as error:
            failed = fail(str(error), 1)
        except (OSError, ValueError, RuntimeError, MemoryError) as error:
            failed = fail(f"{source}: {error or type(error).__name__}", 1)
    return failed


def _jobs(arguments: argparse.Namespace, model: str) -> list[tuple[Path, Path]]:
    """Pair every input file with its output file."""
    # What an earlier run of the model wrote beside its inputs is not an input.
    ours = re.compile(rf"_{re.escape(model)}_x\d+$")
    sources: list[Path] = []
    for path in arguments.inputs:
        if path.is_dir():
            inside = [p for p in find_images(path) if not ours.search(p.stem)]
            if not inside:
                raise UsageError(f"the folder {path} holds no image but what {model} made")
            sources += inside
        else:
            sources.append(path)
    out: Path | None = arguments.out
    several = len(sources) > 1 or arguments.inputs[0].is_dir()
    if several and out is not None and not out.is_dir():
        raise UsageError(f"several inputs need -o to be an existing folder, and {out} is none")
    if out is not None and not several and not out.is_dir():
        if out.exists() and sources[0].exists() and out.samefile(sources[0]):
            raise UsageError(f"the output {out} is the input")
        return [(sources[0], out)]
    suffix = f"_{model}_x{arguments.scale}.png"
    jobs = [(p, (out or p.parent) / f"{p.stem}{suffix}") for p in sources]
    targets = [target for _, target in jobs]
    clashes = sorted({str(t) for t in targets if targets.count(t) > 1})
    both = sorted(str(t) for t in targets if t in sources)
    if both:
        raise UsageError(f"{both[0]} would be an input and an output; run them one by one")
    if clashes:
        raise UsageError(f"several inputs would be written to {clashes[0]}; run them one by one")
    return jobs


def check_data(arguments: argparse.Namespace) -> int:
    """Look at the image sets under a data root."""
    root, test = data_root(arguments.root), arguments.test or TEST_SETS
    with _bar("check") as bar:
        found = check(root, test, _follow(bar))
    width = max(len(name) for name in found.images)
    for name, count in found.images.items():
        print(f"{name:{width}}  {count:6} images{'  (test set)' * (name in test)}")
    for message in found.damaged:
        print(f"damaged: {message}")
    for a, b in found.copies:
        print(f"the same pixels: {a} and {b}")
    for a, b in found.alike:
        print(f"the same picture: {b} shows {a} of a test set; leave it out with --exclude")
    if not (found.damaged or found.copies or found.alike):
        print("no damaged file, no copies, no training image that shows a test image")
    return 1 if found.damaged else 0


def train_network(arguments: argparse.Namespace) -> int:
    """Train a network by a recipe."""
    try:
        from crnet.training import train
    except ModuleNotFoundError as error:
        raise UsageError(f"training needs {error.name}: pip install 'csc-crnet[train]'") from error
    prefix = "field_"
    overrides = {
        name.removeprefix(prefix): value
        for name, value in vars(arguments).items()
        if name.startswith(prefix) and value is not None
    }
    chosen = recipe.read(arguments.recipe, overrides)
    given = Path(arguments.recipe)
    beside = given.parent if given.name == "recipe.toml" else Path("runs") / given.stem
    run = arguments.out or beside  # recipe.toml is what a run saved
    try:
        train.train(
            chosen,
            run,
            arguments.data,
            resume=arguments.resume,
            device=arguments.device,
            devices=arguments.devices,
            workers=arguments.workers,
            validate_every=arguments.validate_every,
            save_minutes=arguments.save_minutes,
            bar=True,
        )
    except (FileExistsError, ValueError) as error:
        raise UsageError(str(error)) from error
    print(f"trained: {run / 'last.ckpt'}; crnet export writes it as a weights file")
    return 0


def export_weights(arguments: argparse.Namespace) -> int:
    """Write a checkpoint or published weights as a weights file, with what they measure."""
    out: Path = arguments.out
    if out.suffix != ".safetensors":
        raise UsageError(f"OUT must end in .safetensors, got {out}")
    if not re.fullmatch(loading.NAME, out.stem):
        raise UsageError(f"a model is named by letters, digits, '.', '+', '-', not {out.stem!r}")
    given: Path = arguments.file
    if given.suffix == ".mat":
        try:
            net, card = loading.of_matlab(given, arguments.scales or ())
        except ValueError as error:
            raise UsageError(f"--{error}") from error
    elif arguments.scales:
        raise UsageError(f"--scales is for a .mat file; {given} says its own")
    else:
        net, card = loading.load(given), loading.card(given)
    card = dataclasses.replace(card, name=out.stem)
    if arguments.half:  # what is measured is what is written
        net = net.half().float()
    with output_file(out, overwrite=arguments.overwrite) as file:
        rows: list[Row] = []
        if arguments.test:
            root = data_root(arguments.data)
            with _bar("evaluate") as bar:
                rows = evaluate(
                    {out.stem: Upscaler(net)}, root, arguments.test, card.scales,
                    on_image=_follow(bar),
                )  # fmt: skip
            print(table(rows))
        for row in rows:
            card.psnr.setdefault(row.set, {})[str(row.scale)] = round(row.psnr, 4)
        file.write(loading.serialize(net.half() if arguments.half else net, card))
    print(out)
    return 0


def _check_device(device: str) -> None:
    try:
        if device.split(":")[0] not in ("cpu", "cuda", "mps", "xpu"):
            raise RuntimeError("known are cpu, cuda, mps and xpu")
        torch.zeros(1, device=device).cpu()
    except Exception as error:  # every backend fails in its own way
        raise UsageError(
            f"device {device} is not available: {str(error).splitlines()[0]}"
        ) from None


def _bar(name: str) -> "tqdm[NoReturn]":
    """Return a progress bar on stderr, silent where that is no terminal."""
    return tqdm(desc=name, disable=None, leave=False)


def _follow(bar: "tqdm[NoReturn]") -> Callable[[int, int], None]:
    def on_step(done: int, total: int) -> None:
        bar.total = total
        bar.update(done - bar.n)

    return on_step


def fail(message: str, code: int) -> int:
    """Tell on stderr why the command fails, and return its exit code."""
    print(f"crnet: {' '.join(message.split())}", file=sys.stderr)
    return code
