-- abandon: moves executions to `lost` whose final record their holder could not commit, and drains their workers.
-- ARGV    2 holder  3… triples of (execution, worker, token); token 0: the worker has answered, and does not drain
-- reads   worker:<id>, journal:<holder>
-- writes  lost, journal:<holder>; for a lease what reap writes for a lost one
-- promises  the detail of each execution is in `lost`, unless it was acknowledged or moved before

for at = 3, #ARGV, 3 do
  local is = call('HMGET', record(ARGV[at + 1]), 'state', 'token')
  if is[1] == 'leased' and is[2] == ARGV[at + 2] then
    lose(ARGV[at + 1], 'its process could not tell the state of the worker')
  end
  lose_execution(ARGV[2], ARGV[at], ARGV[at + 2] == '0')
end
return 1
