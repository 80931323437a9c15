"""The only package that imports PyBullet. Importing this file alone does not."""

GRAVITY = 9.8  # m/s^2, as in Gymnasium's CartPole
MAX_SPEED = 100.0  # m/s or rad/s: Bullet clamps the speed of every joint and body here
MAX_PHYSICS_HZ = 1000
