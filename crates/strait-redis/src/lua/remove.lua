-- Removes dead letters, and not what was brought back.
-- KEYS: group, dead letters, their changed copies, of each partition what was brought back and what holds keys ..
-- ARGV: numbers and their partitions ..
local count, lets_go = 0, false
for i = 1, #ARGV, 2 do
  local back, held = KEYS[4 + 2 * tonumber(ARGV[i + 1])], KEYS[5 + 2 * tonumber(ARGV[i + 1])]
  if redis.call('HEXISTS', back, ARGV[i]) == 0 and drop_letter(KEYS[1], KEYS[2], KEYS[3], ARGV[i]) then
    count = count + 1
    lets_go = redis.call('HDEL', held, ARGV[i]) == 1 or lets_go
  end
end
if lets_go then changed(KEYS[1]) end
return count
