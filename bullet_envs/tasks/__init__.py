"""The suite's own tasks. Importing one registers its ids."""

from .balancing_plate import BalancingPlate
from .cart_pole import CartPole

__all__ = ["BalancingPlate", "CartPole"]
