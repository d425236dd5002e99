"""The command line of `rebalancer adm`: its groups, and what is in them."""

import shlex

import click
from click.core import ParameterSource

from rebalancer.adm import control, create, imports, node, show
from rebalancer.adm.client import Access
from rebalancer.adm.options import access_options


@click.group("adm", context_settings={"help_option_names": ["-h", "--help"]})
@access_options
@click.pass_context
def adm(context: click.Context, url: str, token_file: str, ca_file: str) -> None:
    """Ask the manager to make, show, control and watch jobs.

    The options here go before the command, and can be given as REBALANCER_URL,
    REBALANCER_TOKEN_FILE and REBALANCER_CA_FILE in the environment.

    \b
    Examples:
      rebalancer adm job plan --shark 1.stor             # what would it do?
      rebalancer adm job create evacuate --shark 1.stor  # prints the job's id
      rebalancer adm job watch 0fd6                      # an id may be cut, to four characters
      rebalancer adm --url https://10.0.0.9 --ca-file ca.pem --token-file token status

    \b
    Exit codes:
      0    done; of a watched job: nothing is left to do; of a node: safe to remove
      1    refused, no manager, job failed, faults, does not fit, not whole: stderr says what
      2    no such command or option, or a value that cannot be; as rebalancer-adm: 1
      3    the node is not empty: records still name it
      4    whether the node is empty is not known: not all of it was looked at
      130  interrupted
    """
    typed = "".join(
        f" --{name.replace('_', '-')} {shlex.quote(value)}"
        for name, value in context.params.items()
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE
    )
    program = "rebalancer-adm" if context.info_name == "rebalancer-adm" else "rebalancer adm"
    context.obj = Access(url, token_file, ca_file, f"{program}{typed}")


@adm.group()
def job() -> None:
    """Make, show and control jobs.

    A job waits for its turn, runs, and ends as complete, failed or cancelled.  One that failed,
    was cancelled or had to skip something can be retried: the new job takes up what is left.  One
    that is paused goes on where it was when it is resumed.
    """


@click.command("help")
@click.argument("names", nargs=-1, metavar="[COMMAND]...")
@click.pass_context
def show_help(context: click.Context, names: tuple[str, ...]) -> None:
    """Show what there is, or the help of a command."""
    above = context.parent
    assert above is not None
    for name in names:
        group = above.command
        found = group.get_command(above, name) if isinstance(group, click.Group) else None
        if found is None:
            raise click.UsageError(f"No such command {name!r}.", above)
        above = click.Context(found, info_name=name, parent=above)
    click.echo(above.get_help())


for _group in (adm, job, create.create, node.node):
    _group.add_command(show_help)
adm.add_command(show.status)
adm.add_command(node.node)
for _command in (
    create.create,
    create.plan,
    create.retry,
    imports.import_jobs,
    show.list_jobs,
    show.get,
    show.watch,
    show.summary,
    show.objects,
    show.report,
    control.pause,
    control.resume,
    control.cancel,
    control.set_threads,
    control.set_max_sharks,
    control.set_max_tasks,
    control.set_bandwidth,
    control.delete,
):
    job.add_command(_command)
