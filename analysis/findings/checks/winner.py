"""Whether the val images tell the best trial from the runner-up."""

from analysis.evaluating.statistics import Z_95
from analysis.findings.checks.check import Check, unknown
from analysis.findings.trials import level_with_best
from analysis.reading.results import SearchResults
from analysis.text import plural, points, run_search


def check_winner(results: SearchResults, n_val: int, confirmed: bool = False) -> Check:
    """Is the winner better than the runner-up, by n_val images?"""
    name = "Is the winner better than the runner-up?"
    best, equals = results.best_trial, level_with_best(results)
    others = equals[equals["number"] != best.number] if best is not None else equals
    if best is None or others.empty:
        return unknown(name, "There are no two trials with equal epochs to compare.")
    second = others.iloc[0]
    differences = best.val_accuracy - others["val_accuracy"]
    variance = best.val_accuracy * (1 - best.val_accuracy) + others["val_accuracy"] * (1 - others["val_accuracy"])
    errors = (variance / n_val) ** 0.5
    close = int((differences <= Z_95 * errors).sum())
    finding = (
        f"Trial {best.number} leads trial {int(second['number'])} by {points(float(differences.iloc[0]))} points after "
        f"{plural(best.epochs, 'epoch')} each; the lead's standard error is {100 * errors.iloc[0]:.2f} points "
        f"(n = {n_val:,} val images, taken as two independent samples). {close} of the {len(others)} others "
        f"{'is' if close == 1 else 'are'} within {Z_95:.2f} standard errors."
    )
    if confirmed:
        return Check(
            name,
            "fine" if close == 0 else "look",
            f"{finding} The best were trained again with other seeds: see the section on the confirmation.",
            "Take the winner of the confirmation.",
        )
    command = run_search("--confirm", results.place)
    if close == 0:
        return Check(
            name, "fine", finding, "What another seed would give is not known; train the best ones again.", command
        )
    return Check(
        name, "look", finding, "Train the best ones again with other seeds before one is called best.", command
    )
