"""The command line. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import logging
import math
import os
import shlex
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resonance_lens.arguments import UsageError, parse
from resonance_lens.errors import AdapterError, PluginWarning, ResonanceLensError

if TYPE_CHECKING:
    from resonance_lens.patch_settings import PatchSettings

OK, FAILED_CHECK, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    Parameters
    ----------
    argv
        The arguments, without the name of the program; those of the process if not given.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    try:
        with _notices():
            arguments = parse(argv)
            code = COMMANDS[arguments.command](arguments, argv)
        sys.stdout.flush()
        return code
    except AdapterError as error:
        _say(str(error))
        return FAILED_CHECK
    except ResonanceLensError as error:
        _say(str(error))
        return BAD_INPUT
    except KeyboardInterrupt as error:
        _say(str(error) or "Interrupted.")
        return INTERRUPTED
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK


# The commands ----------------------------------------------------------------------------------


def list_command(arguments: argparse.Namespace, argv: Sequence[str]) -> int:
    """List the analyses."""
    from resonance_lens import listings, registry

    if arguments.broken:
        broken = registry.broken_plugins()
        data: Any = [dataclasses.asdict(each) for each in broken]
        return _print(arguments, data, listings.broken_text(broken))
    entries = registry.list_analyses()
    data = [{**dataclasses.asdict(e), "trials": listings.trials(e)} for e in entries]
    return _print(arguments, data, listings.analyses_text(entries))


def models_command(arguments: argparse.Namespace, argv: Sequence[str]) -> int:
    """List the models."""
    from resonance_lens import listings
    from resonance_lens.models import list_models

    models = list_models()
    return _print(arguments, [dataclasses.asdict(m) for m in models], listings.models_text(models))


def run_command(arguments: argparse.Namespace, argv: Sequence[str]) -> int:
    """Measure prompts, or say what that would cost."""
    from resonance_lens import listings, settings

    told = settings.from_arguments(arguments)
    prompts = told.read_prompts()
    progress = not arguments.quiet
    with _quiet_libraries(arguments.verbose):
        from resonance_lens import engine, models

        engine.choose_analyses(
            told.analyses, told.parameters
        )  # what is misspelt is said before a model loads
        model = models.load_model(told.model, device=told.device, dtype=told.dtype, progress=progress)
        if arguments.plan:
            plan = engine.plan(model, prompts, told.analyses, parameters=told.parameters, **told.passes())
        else:
            with _folder(told.out, argv, named=told.named, quiet=arguments.quiet):
                run = engine.run(
                    model,
                    prompts,
                    told.analyses,
                    parameters=told.parameters,
                    **told.passes(),
                    seed=told.seed,
                    check=told.check,
                    progress=progress,
                )
    if arguments.plan:
        return _print(arguments, plan.as_dict(), str(plan))
    return _print(arguments, listings.run_data(run, told.out), listings.run_text(run, told.out))


def patch_command(arguments: argparse.Namespace, argv: Sequence[str]) -> int:
    """Change places inside a model and say what that does to its answers, or say what it would cost."""
    from resonance_lens import patch_listings, patch_settings

    with _quiet_libraries(arguments.verbose):
        if arguments.list:
            data, text = patch_listings.choices()
        else:
            told = patch_settings.from_arguments(arguments)
            data, text = _patch(told, arguments, argv)
    return _print(arguments, data, text)


def _patch(told: PatchSettings, arguments: argparse.Namespace, argv: Sequence[str]) -> tuple[Any, str]:
    from resonance_lens import patch_listings
    from resonance_lens.patching.patch import patch
    from resonance_lens.patching.planning import plan

    progress = not arguments.quiet
    model = told.load_model(progress)
    if told.difference(model):
        _say(f"warning: {told.difference(model)}")
    pairs = told.read_pairs(model)
    if arguments.plan:
        planned = plan(model, pairs, **told.arguments())
        return planned.as_dict(), str(planned)
    with _folder(told.out, argv, named=told.named, quiet=arguments.quiet, kept="sweep.npz"):
        result = patch(model, pairs, **told.arguments(), progress=progress)
    return patch_listings.result_data(result, told.out), patch_listings.result_text(result, told.out)


def carriers_command(arguments: argparse.Namespace, argv: Sequence[str]) -> int:
    """Drive a model and say which heads and layers carry waves, or say what that would cost."""
    from resonance_lens import carriers_settings, listings
    from resonance_lens.runs import Run

    told = carriers_settings.from_arguments(arguments)
    progress = not arguments.quiet
    with _quiet_libraries(arguments.verbose):
        from resonance_lens import models
        from resonance_lens.carrying.carriers import carriers
        from resonance_lens.carrying.planning import plan

        prompts = told.read_prompts()
        model = models.load_model(told.model, device=told.device, dtype=told.dtype, progress=progress)
        if arguments.plan:
            planned = plan(model, prompts, **told.arguments())
        else:
            with _folder(told.out, argv, named=told.named, quiet=arguments.quiet, kept="settings.json"):
                carriers(model, prompts, **told.arguments(), progress=progress)
    if arguments.plan:
        return _print(arguments, planned.as_dict(), str(planned))
    run = Run.load(told.out)
    return _print(arguments, listings.run_data(run, told.out), listings.run_text(run, told.out))


def probe_command(arguments: argparse.Namespace, argv: Sequence[str]) -> int:
    """Learn to read a label from activations, or say what that would cost."""
    from resonance_lens import listings, probe_listings

    if arguments.list:
        return _print(arguments, probe_listings.choices_data(), probe_listings.choices_text())
    with _quiet_libraries(arguments.verbose):
        from resonance_lens import models, probe_settings
        from resonance_lens.probing.probe import plan, probe
        from resonance_lens.runs import Run

        told = probe_settings.from_arguments(arguments)
        progress = not arguments.quiet
        documents = told.read_documents()
        model = models.load_model(told.model, device=told.device, dtype=told.dtype, progress=progress)
        if arguments.plan:
            planned = plan(model, documents, told.label, **told.options)
        else:
            # To a finished run a causal check may be added: the progress says whether.
            quiet = arguments.quiet or (arguments.causal and (told.out / "run.json").exists())
            with _folder(told.out, argv, named=told.named, quiet=quiet, kept="settings.json"):
                probe(model, documents, told.label, **told.options, progress=progress)
    if arguments.plan:
        return _print(arguments, planned.as_dict(), str(planned))
    run = Run.load(told.out)
    return _print(arguments, listings.run_data(run, told.out), listings.run_text(run, told.out))


def discover_command(arguments: argparse.Namespace, argv: Sequence[str]) -> int:
    """Look for components that come back in a band, or say what that would cost."""
    from resonance_lens import discover_settings, listings
    from resonance_lens.runs import Run

    with _quiet_libraries(arguments.verbose):
        from resonance_lens import models
        from resonance_lens.discovering.discover import discover, plan

        told = discover_settings.from_arguments(arguments)
        progress = not arguments.quiet
        documents = told.read_documents()
        model = models.load_model(told.model, device=told.device, dtype=told.dtype, progress=progress)
        if arguments.plan:
            planned = plan(model, documents, **told.options)
        else:
            with _folder(told.out, argv, named=told.named, quiet=arguments.quiet, kept="settings.json"):
                discover(model, documents, **told.options, progress=progress)
    if arguments.plan:
        return _print(arguments, planned.as_dict(), str(planned))
    run = Run.load(told.out)
    return _print(arguments, listings.run_data(run, told.out), listings.run_text(run, told.out))


def report_command(arguments: argparse.Namespace, argv: Sequence[str]) -> int:
    """Write the page of a run."""
    from resonance_lens.runs import Run

    folder = Path(arguments.folder)
    with _quiet_libraries(arguments.verbose):
        path = Run.load(folder).report(Path(arguments.out or folder / "report.html"))
    url = path.resolve().as_uri()
    return _print(arguments, {"path": str(path), "url": url}, f"{path}\nopen {url}")


def compare_command(arguments: argparse.Namespace, argv: Sequence[str]) -> int:
    """Say what differs between two runs, or two categories of prompts."""
    from resonance_lens import listings
    from resonance_lens.comparison import compare, compare_categories
    from resonance_lens.files import write_text
    from resonance_lens.runs import Run

    first = arguments.category
    second = arguments.against or first
    if second and not first:
        raise UsageError("--against needs --category: the category of the first side.")
    if arguments.b is None and first == second:
        raise UsageError(
            "compare needs RUN_B, or two categories of RUN_A: --category X --against Y; see "
            "`resonance-lens compare --help`."
        )
    a = Run.load(Path(arguments.a))
    b = a if arguments.b is None else Run.load(Path(arguments.b))
    if first:
        compared = compare_categories(a, first, second, other=b, seed=arguments.seed)
    else:
        compared = compare(a, b, seed=arguments.seed)
    for name in sorted({*a, *b} - set(compared)):
        _say(f"{name} is left out: not both sides have it with numbers for each prompt.")
    if arguments.out:
        write_text(Path(arguments.out), listings.comparison_csv(compared))
    sides = listings.sides(arguments.a, arguments.b or arguments.a, first, second)
    return _print(
        arguments, listings.comparison_data(compared, sides), listings.comparison_text(compared, sides)
    )


def check_model_command(arguments: argparse.Namespace, argv: Sequence[str]) -> int:
    """Prove that the sites of a model are read as they should be."""
    from resonance_lens import listings

    with _quiet_libraries(arguments.verbose):
        from resonance_lens import hooks, models

        model = models.load_model(
            arguments.model,
            device=arguments.device,
            dtype=arguments.dtype,
            progress=not arguments.quiet,
        )
        adapter = hooks.attach(model)
        proofs = hooks.prove(adapter)
    data = listings.checks_data(adapter.facts, proofs)
    _print(arguments, data, listings.checks_text(adapter.facts, proofs))
    return OK if data["ok"] else FAILED_CHECK


COMMANDS = {
    "list": list_command,
    "models": models_command,
    "run": run_command,
    "patch": patch_command,
    "carriers": carriers_command,
    "probe": probe_command,
    "discover": discover_command,
    "report": report_command,
    "compare": compare_command,
    "check-model": check_model_command,
}

# What they print, and where --------------------------------------------------------------------


def _print(arguments: argparse.Namespace, data: Any, text: str) -> int:
    print(json.dumps(_plain(data), indent=2, ensure_ascii=False) if arguments.json else text)
    return OK


def _plain(data: Any) -> Any:
    """Return data as JSON has it: numbers that are not finite are null."""
    if isinstance(data, float):
        return data if math.isfinite(data) else None
    if isinstance(data, dict):
        return {key: _plain(value) for key, value in data.items()}
    return [_plain(value) for value in data] if isinstance(data, list | tuple) else data


def _say(sentence: str) -> None:
    print(f"resonance-lens: {sentence}", file=sys.stderr)


@contextlib.contextmanager
def _notices() -> Iterator[None]:
    """Show our own warnings, about plug-ins, as sentences, each once."""
    shown = set()

    def show(message: Any, category: type[Warning], *rest: Any, **named: Any) -> None:
        if issubclass(category, PluginWarning):
            if str(message) not in shown:
                _say(f"warning: {message}")
            shown.add(str(message))
        else:
            usual(message, category, *rest, **named)

    with warnings.catch_warnings():
        usual = warnings.showwarning
        warnings.showwarning = show
        warnings.filterwarnings("always", category=PluginWarning)
        yield


@contextlib.contextmanager
def _quiet_libraries(verbose: bool) -> Iterator[None]:
    """Keep what torch, transformers and TransformerLens say off the screen, or all of it on stderr."""
    if verbose:
        with contextlib.redirect_stdout(sys.stderr):
            yield
        return
    for name in ("TRANSFORMERS_VERBOSITY", "HF_HUB_VERBOSITY"):
        os.environ.setdefault(name, "error")
    loggers = {logging.getLogger(): logging.ERROR, logging.getLogger("resonance_lens"): logging.WARNING}
    before = {logger: logger.level for logger in loggers}
    try:
        for logger, level in loggers.items():
            logger.setLevel(level)
        with warnings.catch_warnings(), open(os.devnull, "w") as nowhere:
            warnings.simplefilter("ignore")
            warnings.filterwarnings("always", category=PluginWarning)
            with contextlib.redirect_stdout(nowhere):
                yield
    finally:
        for logger, level in before.items():
            logger.setLevel(level)


@contextlib.contextmanager
def _folder(
    out: Path, argv: Sequence[str], *, named: bool, quiet: bool, kept: str = "features.zip"
) -> Iterator[None]:
    """Say what is resumed, and how to resume, and leave no empty folder behind.

    ``kept`` is the file that holds what has been measured while it goes on.
    """
    partial = out / "partial" / kept
    existed = out.exists()
    if not quiet and (out / "run.json").exists():
        _say(f"{out} already holds a finished run; nothing is measured again.")
    elif not quiet and partial.exists():
        _say(f"Resuming the run in {out}.")
    try:
        yield
    except KeyboardInterrupt:
        if not partial.exists():
            raise KeyboardInterrupt("Interrupted before anything was measured.") from None
        again = shlex.join(["resonance-lens", *argv, *(() if named else ("--out", str(out)))])
        raise KeyboardInterrupt(f"Interrupted; {out} keeps what was measured. To resume: {again}") from None
    finally:
        for folder in (out / "partial", *(() if existed else (out,))):
            with contextlib.suppress(OSError):  # missing, or not empty
                folder.rmdir()


if __name__ == "__main__":
    raise SystemExit(main())
