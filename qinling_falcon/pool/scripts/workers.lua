-- workers: which workers hold a version of a function.
-- ARGV    2 function  3 the beginning of their target: 'function:version:'
-- reads   assigned:<function>, worker:<id>
-- returns those that can get another call, idle or leased

return workers_of(ARGV[2], ARGV[3])
