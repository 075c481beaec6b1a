"""Alignment wired into a model by training it under interventions, and what is left of it when somebody tampers.

Nothing here may import the audit or its probes: a gate whose own instruments were trained against measures nothing. A
test walks the imports.
"""
