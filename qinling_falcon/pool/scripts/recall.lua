-- recall: makes the holder of a busy worker give it up at its next renewal or release.
-- ARGV    2 worker  3 for how many ms the recall stands; 0 takes it back  4 the reason, for the operator
-- reads   worker:<id>
-- writes  worker:<id>, recalls
-- returns 1; 0: the worker is not leased

local is = call('HMGET', record(ARGV[2]), 'state', 'runtime', 'target')
if is[1] ~= 'leased' then return 0 end
if ARGV[3] == '0' then
  end_recall(ARGV[2])
else
  local expires = text(now + tonumber(ARGV[3]))
  call('HSET', record(ARGV[2]), 'recalled', expires)
  call('ZADD', RECALLS, expires, ARGV[2])
  note('recalled', ARGV[4], {worker = ARGV[2], runtime = is[2], target = is[3]})
end
return 1
