"""Tensor maths: spectral operators, time steppers, linear solvers, Lyapunov exponents."""
