"""Few-step, guidance-free students of a Kontext teacher.

`stage` runs it under the training loop; `trajectory` (regression on the teacher's guided steps) and `cdm` (continuous
distribution matching) are the two ways to learn, pure functions of velocities; `grid` is what the student is deployed
with, `velocities` how a denoiser is asked, `drawing` how student and teacher make pictures to be scored.
"""
