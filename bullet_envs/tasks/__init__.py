"""The suite's own tasks. Importing one registers its ids."""

from .cart_pole import CartPole  # isort: skip  (the order of ENV_IDS)
from .balancing_plate import BalancingPlate

__all__ = ["BalancingPlate", "CartPole"]
