"""The inner-alignment gate: what a model's behaviour may hide, one check a file, and a verdict over all of them.

Two arms. The behavioural one uses what a model says and the probabilities that it gives to answers: `paraphrase`,
`framing`, `askers`, `sycophancy`, `preference`, `style`, `noise`, `leaks`. The white-box one reads weights and
activations: `amplified`, `directions_used`, `persona_shift`, `lens_of_change`, `drift`, `ablation`, `shortcuts`. Each
gives a `Check`; `verdict` combines them. Nothing here may be trained against: `train/` and `interp/hardening/` never
import it, and a test walks their imports.
"""
