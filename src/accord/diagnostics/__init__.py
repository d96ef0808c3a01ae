"""What a practitioner asks of a multi-task model: how its gradients disagree, what each method would do, over time."""

from accord.diagnostics.costs import Cost
from accord.diagnostics.diagnose import Diagnosis, diagnose
from accord.diagnostics.gradients import Gradients, Pair
from accord.diagnostics.logs import Log
from accord.diagnostics.previews import Preview
from accord.diagnostics.reading import Logged, read_log

__all__ = ["Cost", "Diagnosis", "Gradients", "Log", "Logged", "Pair", "Preview", "diagnose", "read_log"]
