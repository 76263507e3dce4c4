-- check_backlog: whether a target is current, and how many executions of its project wait.
-- ARGV    2 project  3… pairs of (cache key, generation)
-- reads   generations, ready:<project>
-- returns {1 if all generations are current, else 0; how many executions of the project are in its ready set}

return {current(ARGV, 3) and 1 or 0, call('ZCARD', ready_of(ARGV[2]))}
