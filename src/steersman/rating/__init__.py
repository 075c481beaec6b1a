"""Human raters: the application in which they answer, the store that keeps it, how far they are believed, what to ask
next, and what comes out of it."""
