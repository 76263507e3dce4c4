-- change: marks a what as changing, or ends the change with a new generation.
-- ARGV    5 what  6 owner of the change, random  7 a new random generation, or empty: the change begins
-- reads   generations      writes  generations
-- promises  while the mark stands (for a minute at most) nobody caches the what; what was resolved before the end of a
--           change is stale after it, also under the mark of another change that is still under way

local value = ARGV[7]
if value == '' then
  value = 'changing ' .. text(now + CHANGING_MS) .. ' ' .. ARGV[6] .. ' -'
else
  local till, owner = string.match(call('HGET', GENERATIONS, ARGV[5]) or '', '^changing (%d+) (%S+)')
  -- The mark of a change that began later stays its own, with other salt.
  if owner and owner ~= ARGV[6] then value = 'changing ' .. till .. ' ' .. owner .. ' ' .. ARGV[7] end
end
call('HSET', GENERATIONS, ARGV[5], value)
return 1
