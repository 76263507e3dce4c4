-- generations: reads the present generation of each cache key, and makes it if there is none.
-- ARGV    2… pairs of (cache key, a new random generation)
-- reads   generations
-- writes  generations
-- returns the generations in order; 'changing …' while a change is under way
-- promises  A new generation was never in use before. Above 100,000 generations, one is removed for each new one, and
--           its target is then resolved again.

local MOST = 100000

local function remove_one()
  for _, key in ipairs(call('HRANDFIELD', GENERATIONS, 3)) do
    -- The marker of a change must stand until the change ends.
    if not string.match(generation(call('HGET', GENERATIONS, key)) or '', '^changing ') then
      return call('HDEL', GENERATIONS, key)
    end
  end
end

local answers = {}
for at = 2, #ARGV, 2 do
  local is = generation(call('HGET', GENERATIONS, ARGV[at]))
  if not is then
    if call('HLEN', GENERATIONS) >= MOST then remove_one() end
    is = ARGV[at + 1]
    call('HSET', GENERATIONS, ARGV[at], is)
  end
  answers[#answers + 1] = is
end
return answers
