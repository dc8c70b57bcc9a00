"""The command: compose, plan, execute, report.

python -m neft_lab.run +sweep=alpha_grid
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from neft_lab.config import UserError
from neft_lab.plan import Plan, make_plan
from neft_lab.plan.keys import groups, options
from neft_lab.store import Store

DONE, FAILED, MISTAKE, STOPPED = 0, 1, 2, 130

HYDRA_FLAGS = (
    "--hydra-help",
    "--cfg",
    "-c",
    "--info",
    "-i",
    "--shell-completion",
    "-sc",
    "--resolve",
    "--package",
    "-p",
)

HELP = """usage: python -m neft_lab.run [+sweep=NAME] [key=value ...]

  python -m neft_lab.run                                  one run with the defaults
  python -m neft_lab.run +sweep=alpha_grid                a sweep; a second time it does nothing and says so
  python -m neft_lab.run +sweep=alpha_grid dry_run=true   the plan and what is done of it; runs nothing
  python -m neft_lab.run +sweep=alpha_grid explain=true   why each step is fresh or stale, field by field
  python -m neft_lab.run noise.alpha=0,5 seed=0,1         a grid of your own

options:
  --config-dir DIR             also take options from DIR (DIR/model/mine.yaml, DIR/sweep/mine.yaml)
  --cfg job                    print the composed configuration
  -sc install=bash             tab completion: eval "$(python -m neft_lab.run -sc install=bash)"
  --version                    the version

{groups}

Every key: python -m neft_lab.run --cfg job"""


def main(arguments: Sequence[str]) -> int:
    """Run the command line; the exit code: 0 done, 1 some step failed, 2 the user's mistake, 130 stopped."""
    try:
        return _dispatch(list(arguments))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return MISTAKE
    except OSError as error:  # a full disk, a results folder that cannot be written
        from neft_lab.step import one_line

        print(f"error: {one_line(error)}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print("\nstopped; nothing finished is lost: the same command goes on from here", file=sys.stderr)
        return STOPPED


def _dispatch(arguments: list[str]) -> int:
    if any(flag in arguments for flag in ("--help", "-h")):
        print(_help())
        return DONE
    if "--version" in arguments:
        from neft_lab import __version__

        print(__version__)
        return DONE
    if any(argument.split("=", 1)[0] in HYDRA_FLAGS for argument in arguments):
        return _hydra(arguments)
    config_dir, overrides = _split(arguments)
    plan = make_plan(overrides, config_dir=config_dir)
    return _carry_out(plan)


def _help() -> str:
    lines = [f"  {group:<12} {', '.join(options(group))}" for group in groups()]
    lines.append(f"  {'+sweep':<12} {', '.join(options('sweep'))}")
    return HELP.format(groups="groups (choose an option with group=option):\n" + "\n".join(lines))


def _split(arguments: Sequence[str]) -> tuple[Path | None, list[str]]:
    config_dir, overrides, waiting = None, [], False
    for argument in arguments:
        name, _, value = argument.partition("=")
        if waiting or name in ("--config-dir", "-cd"):
            waiting = not waiting and not value
            config_dir = config_dir if waiting else Path(value or argument)
        elif argument in ("-m", "--multirun"):
            raise UserError(
                "-m is not used here: give several values (noise.alpha=0,5) or a sweep (+sweep=alpha_grid)"
            )
        elif argument.startswith("-") and "=" not in argument:
            raise UserError(f"{argument}: no such option; see python -m neft_lab.run --help")
        else:
            overrides.append(argument)
    if waiting or (config_dir is not None and not config_dir.is_dir()):
        raise UserError(f"--config-dir must name a folder, got '{config_dir or ''}'")
    return config_dir, overrides


def _hydra(arguments: list[str]) -> int:
    """What Hydra itself answers: the composed configuration, tab completion."""
    import hydra

    from neft_lab.paths import CONF_DIR
    from neft_lab.plan.compose import register

    register()
    sys.argv = ["neft_lab.run", *arguments, "hydra.run.dir=.", "hydra.output_subdir=null"]
    hydra.main(config_path=str(CONF_DIR), config_name="config", version_base="1.3")(lambda config: None)()
    return DONE


def _carry_out(plan: Plan) -> int:
    from rich.console import Console

    from neft_lab.budget import as_json
    from neft_lab.execute import execute, read_status, write_plan
    from neft_lab.explain import foresee, print_explanation, print_plan
    from neft_lab.terminal import TerminalReporter, time_line

    console = Console()
    store = Store(Path(plan.settings.results_dir))
    if store.root.exists() and not store.root.is_dir():
        raise UserError(f"results_dir must be a folder, got the file '{store.root}'")
    folder = store.root / "sweeps" / plan.name
    status = read_status(plan, store)
    if plan.settings.explain:
        print_explanation(plan, status, store, console)
        return DONE
    foreseen = foresee(plan, status, store)
    write_plan(plan, status, folder, budget=as_json(*foreseen))
    if plan.settings.dry_run:
        print_plan(plan, status, foreseen, console)
        return DONE
    if status.missing:
        from neft_lab.budget import check_budget
        from neft_lab.inputs import check_inputs
        from neft_lab.judging.forecast import check_judging
        from neft_lab.plan.confounding import find_confounding

        check_inputs(status.missing, plan.steps)
        check_budget(plan, status, store)
        for line in find_confounding(plan.cells):
            console.print(f"confounded: {line}", style="yellow", highlight=False, soft_wrap=True)
        for forecast in check_judging(status.missing, plan.steps, store).forecasts:
            console.print(str(forecast), highlight=False, soft_wrap=True)
        with TerminalReporter(status.missing, console) as reporter:
            status = execute(plan, store, reporter)
        write_plan(plan, status, folder, budget=as_json(*foresee(plan, status, store)))
        console.print(time_line(reporter.seconds), highlight=False)
    else:
        console.print(
            f"{plan.name}: all {len(plan.steps)} steps are done already; nothing to run", highlight=False
        )
    from neft_lab.publish import publish

    publish(plan, status, folder, console)
    return FAILED if status.missing else DONE


def console() -> None:
    """Entry point of the script ``neft-lab``."""
    sys.exit(main(sys.argv[1:]))


if __name__ == "__main__":
    console()
