-- leave: how many calls of a process still wait in a queue, after some of them were served in the process or gave up.
-- include: limits workers queues
-- ARGV    2 holder  3 queue  4 how many of its calls wait  5 for how many ms the oldest of them has waited

update_entry(ARGV[3], ARGV[2], tonumber(ARGV[4]), now - tonumber(ARGV[5]))
return 1
