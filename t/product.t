# The product: the name and version of the running executable, whichever headers the module was built with.
use strict;
use warnings;

use FindBin;
use JSON::PP;
use lib "$FindBin::Bin/lib";
use Test::Memstat;

my ($product, $version) = Test::Memstat::Configuration::nginx_version() =~ m{^nginx version: (\w+/([\d.]+))}m
    or die "nginx does not say its version\n";

# Returns a server that this executable runs.
sub server {
    return Test::Memstat::Server->new(lua => 0, config => 'location = /memstat { memstat; }', @_)->start;
}

# Returns the product in each format.
sub formats {
    my ($t) = @_;
    my $get = sub { $t->get("/memstat?format=$_[0]")->{body} };
    my ($text)  = $get->('text') =~ /^(.*), memstat /m;
    my ($page)  = $get->('html') =~ m{<p id="facts">(.*?) · memstat };
    my ($label) = $get->('prometheus') =~ /^nginx_memstat_build_info\{(?=.*nginx="\Q$version\E").*product="(.*?)"/m;
    return [ $text, $page, $label ];
}

subtest 'the nginx under test' => sub {
    my $t = server();
    my $reply = $t->memstat;
    is $reply->{product}, $product, 'is what -v says';
    is $reply->{nginx}, $version, 'of this version';
    my $title = $product eq "nginx/$version" ? "nginx $version" : "$product (nginx $version)";
    is_deeply formats($t), [ $title, $title, $product ], 'in text, page and metrics';
    is_deeply decode_json($t->get('/memstat?fields=product')->{body}), { product => $product }, 'a field';
};

# Copies nginx with another name in the string of its version line.
sub fork_named {
    my ($name) = @_;
    my $dir  = File::Temp->newdir('memstat-XXXXXX', TMPDIR => 1, CLEANUP => 1);
    my $path = "$dir/nginx";
    my $code = read_file(`which '@{[ Test::Memstat::Configuration::binary() ]}'` =~ s/\n//r);
    my $changed = $code =~ s{(nginx version: )\Q$product\E(?=[\n ])}{$1$name}g;
    is $changed, 1, 'one version line';
    open my $file, '>:raw', $path or die "cannot write: $!\n";
    print $file $code;
    close $file;
    chmod 0755, $path;
    return ($path, $dir);
}

subtest 'an executable that calls itself otherwise' => sub {
    my $name = 'resty/' . ('9.8.7.6.5.4.3.2.1.0' x 3);
    $name = substr($name, 0, length($product) - 1) . '1';
    my ($binary, $keep) = fork_named($name);
    like `'$binary' -v 2>&1`, qr{\Q$name\E$}m, 'says so';
    my $t = server(binary => $binary);
    my $reply = $t->memstat;
    is $reply->{product}, $name, 'so does the answer';
    is $reply->{nginx}, $version, 'the version of nginx is what it was';
    is_deeply formats($t), [ ("$name (nginx $version)") x 2, $name ], 'in text, page and metrics';
    $t->reload;
    is $t->fresh->{product}, $name, 'and after a reload';
};

subtest 'an executable that does not say it' => sub {
    my ($binary, $keep) = fork_named('?' x length $product);
    my $reply = server(binary => $binary)->memstat;
    is $reply->{product}, undef, 'it is not known';
    my ($process) = process_of($reply, $reply->{answered_by}{pid});
    like join("\n", @{ $process->{notes} }), qr/^product: the executable has no line with its version$/m, 'a note says why';
};

done_testing();
