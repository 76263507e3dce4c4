-- check_backlog: whether a target is current, and how many executions of its project wait.
-- ARGV    2 project  3… pairs of (cache key, generation)
-- reads   generations, backlogs
-- returns {1 if all generations are current, else 0; how many executions of the project are in the ready sets}

return {current(ARGV, 3) and 1 or 0, tonumber(call('HGET', BACKLOGS, ARGV[2])) or 0}
