-- drop_ready: removes executions of a function from the ready sets, because they have ended.
-- ARGV    2 project  3 function  4… executions
-- writes  queued:<project>:<function>, backlogs
-- promises  Turns without executions stay. The drain that finds one empty removes it.

count_backlog(ARGV[2], -call('ZREM', executions_of(ARGV[2], ARGV[3]), unpack(ARGV, 4)))
