"""The line of stages as flows: names, retries and order; what is done stands in `phalar`."""
