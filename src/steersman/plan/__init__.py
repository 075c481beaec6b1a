"""`steersman align --plan`: what would run, what would be reused, and the minutes and memory that it would take."""

from steersman.plan.stages import Plan, StagePlan, plan, table

__all__ = ["Plan", "StagePlan", "plan", "table"]
