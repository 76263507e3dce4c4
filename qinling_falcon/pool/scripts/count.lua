-- count: adds the counts of a process since its last heartbeat: how its calls got their workers.
-- ARGV    2… triples of (runtime, outcome, number)
-- writes  calls

for at = 2, #ARGV, 3 do
  for _, name in ipairs({ARGV[at], 'all'}) do
    call('HINCRBY', P .. 'calls', name .. ' ' .. ARGV[at + 1], ARGV[at + 2])
  end
end
return 1
