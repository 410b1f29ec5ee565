"""Proposals that are wasted on networks that are not trained."""

from checked_searches import a_trial, infeasible, plan_of, space_entry, stopped

from analysis.findings.checks.infeasible import check_infeasible


def test_a_bound_that_refuses_most_proposals_is_named(make):
    bounded = [
        infeasible(
            f"multiply_adds {cost},000,000 > search.max_multiply_adds 12,000,000",
            {"kind": "max_multiply_adds", "cost": cost * 10**6, "bound": 12 * 10**6},
        )
        for cost in (14, 20, 31)
    ]
    results = make([a_trial(0.8), *bounded, infeasible("impossible network: conv3: a kernel")])
    check = check_infeasible(results)
    assert check.verdict == "act"
    assert "4 of 5 proposals (80 %) were infeasible, 3 of them like this: multiply_adds 14,000,000" in check.finding
    assert plan_of(check).config.search.max_multiply_adds == 24_000_000


def test_reasons_in_words_alone_are_shown_and_advise_nothing(make):
    """Of journals that are older than recorded kinds."""
    reason = "multiply_adds 14,000,000 > search.max_multiply_adds 12,000,000"
    older = [infeasible(reason, {}), infeasible("multiply_adds 15 > search.max_multiply_adds 12", {})]
    check = check_infeasible(make([a_trial(0.8), *older, infeasible(reason, {})]))
    assert f"3 of 4 proposals (75 %) were infeasible, 2 of them like this: {reason}. They" in check.finding
    assert check.verdict == "act" and check.command is None


def test_a_depth_at_which_most_networks_are_impossible_is_left_out(make):
    trials = [a_trial(0.8), stopped(), stopped(model__depth=5), infeasible(model__depth=5), infeasible(model__depth=5)]
    check = check_infeasible(make(trials))
    assert check.verdict == "look"  # 2 of 5
    assert space_entry(plan_of(check), "model.depth") == (2, 4)


def test_the_depth_of_the_best_trial_stays(make):
    trials = [a_trial(0.8, model__depth=5), infeasible(model__depth=5), infeasible(model__depth=5)]
    check = check_infeasible(make(trials))
    assert check.verdict == "act" and check.command is None


def test_few_infeasible_proposals_are_fine(make):
    check = check_infeasible(make([a_trial(0.8), *(stopped() for _ in range(8)), infeasible()]))
    assert check.verdict == "fine" and "1 of 10 proposals (10 %)" in check.finding
