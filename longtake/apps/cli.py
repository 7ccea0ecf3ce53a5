"""The command line: what is typed, handed to the code behind it. Names and flags are frozen by tests/test_cli.py.

Results go to stdout and nothing else does; everything said on the way goes to stderr. Exit codes: 0 done, 1 failed,
2 bad usage or input, 130 interrupted.
"""

from __future__ import annotations

import io
import logging
import signal
import sys
import traceback
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from longtake.apps import (
    batch_command,
    convert_command,
    eval_command,
    export_command,
    extend_command,
    reroll_command,
    show_command,
    takes_command,
    vote_command,
)  # fmt: skip
from longtake.apps.console import Format, Output, Quiet, Verbose
from longtake.apps.helping import Group, new_app
from longtake.apps.train import train
from longtake.errors import UsageError

THREE = """longtake makes long, consistent video from short-clip video diffusion models. Try:

  longtake generate "a dog walks right across green hills at noon"
  longtake generate "a rocket flies in circles over the desert at night" --seconds 30 --dry-run
  longtake methods
"""

# typer brings its own click, or uses the installed one, by version: take the class from where typer has it
ClickError: Any = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")

app = new_app()
app.add_typer(train, name="train", cls=Group)


class Profile(StrEnum):
    """How long a benchmark may take."""

    quick = "quick"
    full = "full"


NameArgument = Annotated[str | None, typer.Argument(help="one of them", show_default=False)]


def _version(wanted: bool) -> None:
    if wanted:
        from longtake import __version__

        print(f"longtake {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def longtake(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="print the version and exit")
    ] = False,
) -> None:
    """Long, consistent video from short-clip video diffusion models."""
    if context.invoked_subcommand is None:
        print(THREE, end="")


@app.command()
def generate(
    prompt: Annotated[str | None, typer.Argument(help="what the video shows", show_default=False)] = None,
    model: Annotated[str | None, typer.Option(help="a name, a folder or a hub id  [default: pocket]")] = None,
    method: Annotated[str | None, typer.Option(help="see: longtake methods  [default: fifo]")] = None,
    solver: Annotated[str | None, typer.Option(help="euler, unipc, ...  [default: the model's]")] = None,
    preset: Annotated[str | None, typer.Option(help="a named set of settings, such as lab")] = None,
    frames: Annotated[int | None, typer.Option(help="length in frames")] = None,
    seconds: Annotated[str | None, typer.Option(help="length in seconds, inf for endless  [default: 10]")] = None,
    steps: Annotated[
        int | None, typer.Option(help="denoising steps of every frame  [default: by model and method]")
    ] = None,
    guidance: Annotated[
        float | None, typer.Option(help="strength of the prompt; 1 or less: none  [default: the model's]")
    ] = None,
    size: Annotated[
        str | None, typer.Option(metavar="WxH", help="width x height in pixels  [default: the model's]")
    ] = None,
    fps: Annotated[str | None, typer.Option(help="frames a second  [default: the model's]")] = None,
    seed: Annotated[int | None, typer.Option(help="of all noise  [default: drawn]")] = None,
    image: Annotated[Path | None, typer.Option(help="a picture that the video begins with")] = None,
    last_image: Annotated[Path | None, typer.Option(help="a picture that the video ends on")] = None,
    video: Annotated[
        Path | None, typer.Option(metavar="CLIP", help="a clip to continue; only new frames are made")
    ] = None,
    audio: Annotated[Path | None, typer.Option(metavar="FILE", help="sound to go with it, from its start on")] = None,
    prompt_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="prompts over time: JSON by second, or lines such as 5s: ...")
    ] = None,
    search: Annotated[str | None, typer.Option(help="see: longtake searches  [default: none]")] = None,
    reward: Annotated[str | None, typer.Option(help="see: longtake rewards; a sum such as text+0.5*motion")] = None,
    search_budget: Annotated[
        str | None, typer.Option(metavar="4x", help="size of the search: it costs at most so many times no search")
    ] = None,
    from_: Annotated[
        Path | None, typer.Option("--from", metavar="FILE.mp4", help="the settings that a video was made by")
    ] = None,
    negative_prompt: Annotated[str | None, typer.Option(help="what to steer away from")] = None,
    out: Annotated[Path | None, typer.Option(help="run directory, new  [default: runs/...]")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="K=V",
            help="a parameter, such as fifo.partitions=2; see: longtake methods NAME, searches NAME",
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cuda, mps or cpu")] = "auto",
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16 or float16  [default: by device]")] = None,
    guide_model: Annotated[
        str | None, typer.Option(metavar="ID", help="a text-to-image pipeline that makes the first picture")
    ] = None,
    lora: Annotated[
        list[str] | None, typer.Option(metavar="PATH[:SCALE]", help="a LoRA for the model, a file or a hub id")
    ] = None,
    offload: Annotated[
        str | None,
        typer.Option(help="none, model or group: parts or blocks wait in the host's memory  [default: none]"),
    ] = None,
    compile_: Annotated[bool, typer.Option("--compile", help="compile the network's blocks, for long runs")] = False,
    attention: Annotated[
        str | None, typer.Option(metavar="NAME", help="an attention backend of diffusers: native, flash, sage, ...")
    ] = None,
    no_embed: Annotated[bool, typer.Option("--no-embed", help="keep the settings out of the video's metadata")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="print the plan, run nothing")] = False,
    format_: Format = Output.text,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Make a video; it can be watched while it grows, and stopped and resumed at any moment."""
    from longtake.apps.generate import Console, run_generate
    from longtake.apps.stories import requested

    console = Console(format_ is Output.json, verbose, quiet)
    given = dict(
        prompt=prompt, model=model, method=method, solver=solver, preset=preset, frames=frames, seconds=seconds,
        steps=steps, guidance=guidance, size=size, fps=fps, seed=seed, image=image, video=video, audio=audio,
        negative_prompt=negative_prompt, set=tuple(set_) if set_ else None, device=device, dtype=dtype,
        guide_model=guide_model, lora=tuple(lora) if lora else None, offload=offload, compile=compile_ or None,
        embed=False if no_embed else None, prompt_file=prompt_file, last_image=last_image, search=search, reward=reward,
        search_budget=search_budget, attention=attention,
    )  # fmt: skip
    request, notes = requested(given, from_)
    for note in notes:
        console.note(note)
    run_generate(request, out, dry_run, console)


@app.command()
def resume(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="the run directory")],
    format_: Format = Output.text,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Go on with a run that was stopped, interrupted or killed."""
    from longtake.apps.generate import Console, run_resume

    run_resume(folder, Console(format_ is Output.json, verbose, quiet))


@app.command()
def models(name: NameArgument = None, format_: Format = Output.text) -> None:
    """List models, or tell about one: a name or a pipeline folder."""
    from longtake.apps.listing import list_models

    list_models(name, format_ is Output.json)


@app.command()
def methods(name: NameArgument = None, format_: Format = Output.text) -> None:
    """List the methods for long video and their parameters."""
    from longtake.apps.listing import list_methods

    list_methods(name, format_ is Output.json)


@app.command()
def searches(name: NameArgument = None, format_: Format = Output.text) -> None:
    """List the searches that can wrap a method, and their parameters."""
    from longtake.apps.listing_searches import list_searches

    list_searches(name, format_ is Output.json)


@app.command()
def rewards(name: NameArgument = None, format_: Format = Output.text) -> None:
    """List what a search can be guided by."""
    from longtake.apps.listing_searches import list_rewards

    list_rewards(name, format_ is Output.json)


@app.command()
def bench(
    profile: Annotated[Profile, typer.Option(help="how thorough")] = Profile.quick, format_: Format = Output.text
) -> None:
    """Measure what the engine costs on top of the network."""
    from longtake.apps.bench import run_bench

    run_bench(profile is Profile.full, format_ is Output.json)


for command in (
    batch_command, convert_command, eval_command, export_command, extend_command, reroll_command, show_command,
    takes_command, vote_command,
):  # fmt: skip
    command.register(app)


def main(arguments: list[str] | None = None) -> None:
    """Entry point of the command `longtake`."""
    sys.exit(run(lambda: app(args=arguments, prog_name="longtake", standalone_mode=False)))


def run(command: Callable[[], Any]) -> int:
    """The exit code of a command; every error is told in one line on stderr."""
    _quieten()
    try:
        code = command()
        return code if isinstance(code, int) else 0
    except typer.Exit as stop:
        return stop.exit_code
    except (KeyboardInterrupt, typer.Abort):
        return 130
    except ClickError as error:
        return _say(2, f"{error.format_message()} (see: longtake {_command(error)}--help)")
    except UsageError as error:
        return _say(2, str(error))
    except Exception as error:
        if _stopped:  # an import that is interrupted may say that it failed
            return 130
        logging.getLogger("longtake").debug("%s", traceback.format_exc())
        return _say(1, f"failed: {type(error).__name__}: {error}{_where()}")


_stopped: list[int] = []


def _stop(number: int, frame: Any) -> None:
    _stopped.append(number)
    raise KeyboardInterrupt


def _command(error: Any) -> str:
    context = getattr(error, "ctx", None)
    return f"{context.info_name} " if context is not None and context.parent is not None else ""


def _where() -> str:
    # a command that has -v listens to the log; with -v it has just printed the traceback
    log = logging.getLogger("longtake")
    listens = any(not isinstance(handler, logging.NullHandler) for handler in log.handlers)
    return " (add -v for where)" if listens and log.level > logging.DEBUG else ""


def _say(code: int, message: str) -> int:
    print("longtake: " + " ".join(message.split()), file=sys.stderr)
    return code


def _quieten() -> None:
    # A termination request is an interruption: the file is finished and the state saved
    _stopped.clear()
    signal.signal(signal.SIGTERM, _stop)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _stop)
    logging.getLogger("longtake").addHandler(logging.NullHandler())
    # A tree or a prompt is shown as well as the encoding can, where pipes of Windows or a C locale know few letters
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")


if __name__ == "__main__":
    main()
