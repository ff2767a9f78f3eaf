"""Run discussions at every point of a grid, here or on a Ray cluster, and print what they claim.

    python cluster/rerun.py d00_structure --out reruns -p seed=0,1,2
    python cluster/rerun.py d00_structure --out s3://BUCKET/reruns -p codec=nano,mimi --cluster auto --num-gpus 1
"""
from typing import Annotated

import typer


def rerun(
    names: Annotated[list[str], typer.Argument(help="Discussions: d00_structure, …")],
    out: Annotated[str, typer.Option(help="Folder of the results: a path, s3://…, gs://…")],
    grid: Annotated[list[str] | None, typer.Option("-p",
                    help="name=value,value,…: every combination is run; repeatable.")] = None,
    profile: str = "quick",
    cluster: Annotated[str | None, typer.Option(help='Ray address or "auto"; local processes if not given.')] = None,
    workers: Annotated[int | None, typer.Option(help="Local processes.")] = None,
    num_cpus: float = 1,
    num_gpus: float = 0,
):
    from audioengram.core import AudioengramError
    from audioengram.lab.batch import collect, launch, rerun_tasks
    try:
        points = {}
        for item in grid or []:
            name, sep, values = item.partition("=")
            if not sep: raise typer.BadParameter(f"{item!r} is not name=value,value,…")
            points[name] = values.split(",")
        options = dict(num_cpus=num_cpus, num_gpus=num_gpus) if cluster else {}
        table = launch(rerun_tasks(names, out, points, profile), cluster, workers, **options)
    except AudioengramError as e:
        typer.echo(f"{type(e).__name__}: {e}", err=True)
        raise typer.Exit(1) from None
    typer.echo(table.drop(columns="error").to_string(index=False))
    for row in table[table.status == "failed"].itertuples(): typer.echo(f"\n{row.task} failed: {row.error}", err=True)
    claims = collect(out)
    if len(claims): typer.echo("\n" + claims.to_string(index=False))
    if (table.status == "failed").any(): raise typer.Exit(1)


if __name__ == "__main__": typer.run(rerun)   # guarded: spawned processes import this file
