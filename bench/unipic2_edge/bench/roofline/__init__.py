"""How near a device's limits a bundle runs, and what other devices' limits let expect."""
