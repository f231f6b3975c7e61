"""Few-step, guidance-free students of a Kontext teacher.

`stage` runs it under the training loop; `trajectory` (regression on the teacher's guided steps), `cdm` (continuous
distribution matching) and `targets` (regression on the data's own pictures along the student's steps) are the three
ways to learn, pure functions of velocities; `grid` is what the student is deployed with, `velocities` how a denoiser is
asked, `drawing` how student and teacher make pictures to be scored.
"""
